"""Templates give the text that Ollama's and the hub's libraries give."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tests.store.conversations import CASES, TOOLS
from tests.store.shelves import put_model
from vllama.settings import Settings
from vllama.store import catalogue, templates
from vllama.store.card import Card
from vllama.store.gotemplate import TemplateError, execute, parse

FOLDER = Path(__file__).parent / "templates"
CHATML = (FOLDER / "chatml.tmpl").read_text()
# Answered so by a real Ollama 0.32 to `_debug_render_only`.
RECORDED = [
    (
        CHATML,
        [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}],
        [],
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n",
    ),
    (
        "{{ .System }} USER {{ .Prompt }} BOT ",
        [
            {"role": "system", "content": "You are brief."},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "yo"},
            {"role": "user", "content": "hello"},
        ],
        [],
        "You are brief. USER hi BOT yo USER hello BOT ",
    ),
    (
        "{{- if .Tools }}TOOLS {{ range .Tools }}{{ . }}{{ end }}{{ end }}" + CHATML,
        [{"role": "user", "content": "hello"}],
        TOOLS,
        'TOOLS {"type":"function","function":{"name":"get_time","description":"t",'
        '"parameters":{"type":"object","required":["tz"],"properties":{"tz":{"type":"string"}}}}}'
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
    ),
]


@pytest.fixture
def card(toy: Path, settings: Settings) -> Card:
    return catalogue.card(str(toy), settings)


@pytest.mark.parametrize(("template", "messages", "tools", "expected"), RECORDED)
def test_prompts_are_those_that_ollama_makes(
    template: str, messages: list[Any], tools: list[Any], expected: str, card: Card
) -> None:
    assert templates.render(card, messages, tools, template=template) == expected


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", sorted(p.stem for p in FOLDER.glob("*.tmpl")))
def test_the_templates_of_the_families_are_understood(family: str, case: str, card: Card) -> None:
    expected = json.loads((FOLDER / "expected.json").read_text())[f"{family}-{case}"]
    messages, tools = CASES[case]
    template = (FOLDER / f"{family}.tmpl").read_text()
    think = True if family == "qwen-think" else None
    assert templates.render(card, messages, tools, think, template=template) == expected


def test_thinking_can_be_forbidden(card: Card) -> None:
    template = (FOLDER / "qwen-think.tmpl").read_text()
    messages = [{"role": "user", "content": "Hi"}]
    assert "Hi /no_think" in templates.render(card, messages, (), False, template=template)
    assert "think" not in templates.render(card, messages, (), None, template=template)
    level = "{{ .ThinkLevel }}{{ .Think }}{{ range .Messages }}{{ end }}"
    assert templates.render(card, messages, (), "high", template=level) == "hightrue"


def test_infill_fills_between(card: Card) -> None:
    template = (FOLDER / "infill.tmpl").read_text()
    assert templates.infill(card, "def f", "return", template=template) == (
        "<|fim_prefix|>def f<|fim_suffix|>return<|fim_middle|>"
    )


def test_neighbours_of_one_role_are_merged_but_not_tools_answers(card: Card) -> None:
    template = "{{ range .Messages }}[{{ .Role }}:{{ .Content }}]{{ end }}"
    messages = [{"role": r, "content": c} for r, c in [("USER", "a"), ("user", "b"),
                                                       ("tool", "x"), ("tool", "y")]]  # fmt: skip
    assert templates.render(card, messages, template=template) == ("[user:a\n\nb][tool:x][tool:y]")


def test_images_are_marked_in_their_order(card: Card) -> None:
    template = "{{ range .Messages }}{{ .Content }};{{ end }}"
    messages = [
        {"role": "user", "content": "look", "images": ["a", "b"]},
        {"role": "tool", "content": "see [img] here", "images": ["c"]},
    ]
    assert templates.render(card, messages, template=template) == (
        "[img-0][img-1]look;see [img-2] here;"
    )


def test_the_cards_system_text_yields_to_the_clients(toy: Path, settings: Settings) -> None:
    layers = [
        ("model", (toy / "toy-q8_0.gguf").read_bytes()),
        ("system", b"card"),
        ("messages", b'[{"role": "user", "content": "first"}]'),
    ]
    put_model(settings.home / "models", "x", layers)
    card = catalogue.card("x", settings)
    user = {"role": "user", "content": "hi"}
    system = {"role": "system", "content": "mine"}
    assert [m["content"] for m in templates.conversation(card, [user])] == ["card", "first", "hi"]
    assert templates.conversation(card, [user], "own")[0]["content"] == "own"
    put_model(settings.home / "models", "y", [layers[0], layers[1]])
    bare = catalogue.card("y", settings)
    assert templates.conversation(bare, [system, user]) == [system, user]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ .Foo", "template: :1: unclosed action"),
        ("a\n{{ .Foo", "template: :2: unclosed action"),
        ("{{ if .A }}x", "template: :1: unexpected EOF"),
        ("{{ end }}", "template: :1: unexpected {{end}}"),
        ("{{ foo }}", 'template: :1: function "foo" not defined'),
        ("{{ $x }}", 'template: :1: undefined variable "$x"'),
        ("{{ if }}{{ end }}", "template: :1: missing value for if"),
        ("{{ break }}", "template: :1: {{break}} outside {{range}}"),
        ('{{ "a }}', "template: :1: unterminated quoted string"),
        ("{{ (len .A }}", "template: :1: unclosed left paren"),
    ],
)
def test_a_broken_template_is_refused_in_gos_words(template: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse(template)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("a {{- /* no */ -}} b", "ab"),
        ("{{ `}}` }}{{ \"a\\n\" }}", "}}a\n"),
        ("{{ $x := 1 }}{{ range .L }}{{ $x = 2 }}{{ end }}{{ $x }}", "2"),
        ("{{ $x := 1 }}{{ range .L }}{{ $x := 2 }}{{ end }}{{ $x }}", "1"),
        ("{{ range $i, $v := .L }}{{ if $i }}, {{ end }}{{ $v }}{{ end }}", "a, b, c"),
        ("{{ range .L }}{{ if eq . \"b\" }}{{ break }}{{ end }}{{ . }}{{ end }}", "a"),
        ("{{ range .L }}{{ if eq . \"b\" }}{{ continue }}{{ end }}{{ . }}{{ end }}", "ac"),
        ("{{ range .None }}x{{ else }}none{{ end }}", "none"),
        ("{{ with .A }}{{ . }}{{ end }}{{ with .None }}x{{ else }}no{{ end }}", "1no"),
        ("{{ with .None }}x{{ else with .A }}{{ . }}{{ end }}", "1"),
        ("{{ define \"t\" }}<{{ . }}>{{ end }}{{ template \"t\" .A }}", "<1>"),
        ("{{ block \"t\" .A }}[{{ . }}]{{ end }}", "[1]"),
        ("{{ .L | len | printf \"%02d-%v\" 7 }}", "07-3"),
        ("{{ and .A .None }}|{{ or .None .A }}|{{ not .A }}", "<no value>|1|false"),
        ("{{ index .M \"k\" }}{{ index .L 1 }}{{ slice \"hello\" 1 3 }}", "vbel"),
        ("{{ if and (gt .A 0) (le .A 1) (ne .A 2) }}y{{ end }}", "y"),
        ("{{ eq .A 3 2 1 }}", "true"),
        ("{{ json .M }}{{ json \"<a>\" }}", '{"k":"v"}"\\u003ca\\u003e"'),
        ("{{ .M }}{{ .L }}", "map[k:v][a b c]"),
        ("{{ currentDate }} {{ yesterdayDate }}", "2026-03-01 2026-02-28"),
        ("{{ range $k, $v := .M }}{{ $k }}={{ $v }}{{ end }}", "k=v"),
        ("{{ (index .L 0) }}{{ $.A }}", "a1"),
        ("{{ range 3 }}{{ . }}{{ end }}", "012"),
    ],
)  # fmt: skip
def test_the_language_does_what_gos_does(template: str, expected: str) -> None:
    data = {"A": 1, "L": ["a", "b", "c"], "M": {"k": "v"}}
    assert execute(parse(template), data, date(2026, 3, 1)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [(r"\t\x41\u00e9\U0001F642\101\\", "\tAé🙂A\\"), (r"é \"q\"", 'é "q"')],
)
def test_escapes_are_gos(text: str, expected: str) -> None:
    assert execute(parse(f'{{{{ "{text}" }}}}'), {}) == expected


HOSTILE = {
    "half a byte": r'{{ "\x" }}',
    "no such escape": r'{{ "\q" }}',
    "no such character": r'{{ "\U11000000" }}',
    "brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "blocks": "{{ if 1 }}" * 5000,
    "turns": "{{ range 1000000000 }}{{ end }}",
    "width": '{{ printf "%999999999d" 1 }}',
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_template_is_only_refused(kind: str) -> None:
    with pytest.raises(TemplateError):
        execute(parse(HOSTILE[kind]), {})


@pytest.mark.parametrize(
    "template",
    ["{{ .A.B }}", "{{ index .L 9 }}", '{{ template "no" }}', "{{ len 3 }}", "{{ lt 1 .S }}",
     '{{ define "r" }}{{ template "r" }}{{ end }}{{ template "r" }}', "{{ slice .S 2 9 }}"],
)  # fmt: skip
def test_a_template_that_asks_for_what_is_not_there_fails_with_its_line(template: str) -> None:
    with pytest.raises(TemplateError, match=r"^template: :1: "):
        execute(parse(template), {"A": "text", "L": [], "S": "abc"})


def test_a_jinja_template_is_run_as_the_hubs_libraries_run_it(card: Card) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    template = (
        "{%- if tools %}\n{{ tools | tojson }}\n{%- endif %}\n"
        "{% for m in messages %}\n    {{- m.role }}: {{ m.content | trim }}{{ '\\n' }}"
        "{% if loop.last %}{% break %}{% endif %}{% endfor %}"
        "{% if enable_thinking is defined %}T{{ enable_thinking }}{% endif %}{{ eos_token }}"
    )
    messages, _ = CASES["plain"]
    ours = templates.render(card, messages, TOOLS, True, template=template)
    conversations: list[Any] = [messages]
    tools: list[Any] = list(TOOLS)
    rendered: Any = render_jinja_template(
        conversations,
        tools=tools,
        chat_template=template,
        add_generation_prompt=True,
        enable_thinking=True,
        eos_token="<|im_end|>",
    )
    assert rendered[0] == [ours]


@pytest.mark.parametrize(
    "template",
    ["{% for m in messages %}{{ m.nope.deeper }}{% endfor %}", "{% if messages",
     "{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}{{ raise_exception('no') }}"],
)  # fmt: skip
def test_a_jinja_template_that_fails_or_reaches_out_is_refused(template: str, card: Card) -> None:
    with pytest.raises(TemplateError):
        templates.render(card, CASES["plain"][0], template=f"{{% set x = 1 %}}{template}")


def test_the_toys_own_template_gives_the_recorded_form(card: Card) -> None:
    messages = [{"role": "user", "content": "a"}]
    expected = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert templates.render(card, messages) == expected
