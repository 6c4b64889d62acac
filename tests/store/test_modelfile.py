"""A Modelfile is read as Ollama reads it, and refused in its words."""

import pytest

from vllama.store.modelfile import ModelfileError, decode, parse

WORDS = (
    'command must be one of "from", "license", "template", "system", "adapter", "draft", '
    '"renderer", "parser", "parameter", "message", or "requires"'
)


def test_all_of_the_grammar_is_understood() -> None:
    made = parse(
        '# made for a test\n\nfrom ./model.gguf\nFROM ./mmproj.gguf\n'
        'PARAMETER temperature 0.5\nparameter stop "a b"\nPARAMETER stop </s>\n'
        "PARAMETER temperature 0.7\nPARAMETER num_ctx 4096\nPARAMETER use_mmap false\n"
        'TEMPLATE """{{ .System }}\n# no comment\n{{ .Prompt }}"""\n'
        'SYSTEM "You say "hello" loud\nand no more."\n'
        "ADAPTER ./lora\nDRAFT ./small.gguf\nLICENSE MIT\nLICENSE \"\"\"Two\nlines\"\"\"\n"
        "MESSAGE user hi there\nMESSAGE assistant \"\"\"yo\nyo\"\"\"\n"
        "RENDERER qwen3\nPARSER qwen3\nREQUIRES 0.14.0\nPARAMETER mirostat 1\n"
    )  # fmt: skip
    assert made.sources == ("./model.gguf", "./mmproj.gguf")
    assert made.parameters == {
        "temperature": 0.7, "stop": ["a b", "</s>"], "num_ctx": 4096, "use_mmap": False,
    }  # fmt: skip
    assert made.template == "{{ .System }}\n# no comment\n{{ .Prompt }}"
    assert made.system == 'You say "hello" loud\nand no more.'
    assert (made.adapters, made.drafts) == (("./lora",), ("./small.gguf",))
    assert made.licenses == ("MIT", "Two\nlines")
    assert made.messages == (
        {"role": "user", "content": "hi there"},
        {"role": "assistant", "content": "yo\nyo"},
    )
    assert (made.renderer, made.parser, made.requires) == ("qwen3", "qwen3", "0.14.0")
    assert made.deprecated == ("mirostat",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no FROM line"),
        ("SYSTEM x", "no FROM line"),
        ("FROM x\nBOGUS y", f"(line 2): {WORDS}"),
        ("FROM x\n\n# c\nFRM y", f"(line 4): {WORDS}"),
        ('FROM x\nSYSTEM """a\nb\n\nBOGUS', "(line 2): unexpected EOF"),
        ('SYSTEM """a\nb"""\nBOGUS c', f"(line 3): {WORDS}"),
        ("FROM", "(line 1): unexpected EOF"),
        ("FROM x\nPARAMETER temperature\n", "(line 2): unexpected EOF"),
        ("FROM x\nPARAMETER frob 1", "(line 2): unknown parameter 'frob'"),
        ("FROM x\nPARAMETER num_ctx many", "(line 2): invalid int value [many]"),
        ("FROM x\nPARAMETER top_p hot", "(line 2): invalid float value [hot]"),
        ("FROM x\nPARAMETER use_mmap maybe", "(line 2): invalid bool value [maybe]"),
        ("FROM x\nMESSAGE robot hi",
         '(line 2): message role must be one of "system", "user", or "assistant"'),
        ("FROM x\nREQUIRES soon", "(line 2): requires must be a valid semver (e.g. 0.14.0)"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ModelfileError) as caught:
        parse(text)
    assert caught.value.message == message


def test_a_mark_in_front_and_two_byte_text_are_read() -> None:
    text = "FROM x\nSYSTEM é"
    for raw in (text.encode(), text.encode("utf-8-sig"), text.encode("utf-16")):
        assert parse(decode(raw)).system == "é"


def test_what_does_not_print_is_dropped() -> None:
    assert parse("FROM x\nSYSTEM a\u200db\u00a0c\x07d").system == "abcd"
    assert parse("FROM x\r\nSYSTEM a\r\n").sources == ("x",)


def test_what_show_writes_can_be_read_again() -> None:
    text = (
        'FROM /a/b\nTEMPLATE "{{ .System }} USER "\nSYSTEM You are brief.\nPARAMETER stop "\n"\n'
        'PARAMETER stop END\nMESSAGE user hi\nTEMPLATE """a "q" b"""\n'
    )
    made = parse(text)
    assert made.parameters["stop"] == ["\n", "END"]
    assert made.template == 'a "q" b'
