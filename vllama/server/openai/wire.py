"""What OpenAI's requests look like to Ollama, and what vllama reads beyond that."""

from vllama.server.ollama.wire import TOOLS
from vllama.server.web.gotypes import (
    ANYTHING,
    OBJECT,
    REAL,
    TEXT,
    TRUTH,
    WHOLE,
    Kind,
    Record,
    Slice,
)

_STREAM_OPTIONS = Record("StreamOptions", "openai.StreamOptions", {"include_usage": TRUTH})
_CALL = Record(
    "ToolCall",
    "openai.ToolCall",
    {
        "id": TEXT,
        "index": WHOLE,
        "type": TEXT,
        "function": Record("Function", "struct", {"name": TEXT, "arguments": TEXT}),
    },
)
_MESSAGE = Record(
    "Message",
    "openai.Message",
    {
        "role": TEXT,
        "content": ANYTHING,
        "reasoning": TEXT,
        "tool_calls": Slice(_CALL, "[]openai.ToolCall"),
        "name": TEXT,
        "tool_call_id": TEXT,
    },
)
_SAMPLING: dict[str, Kind] = {
    "model": TEXT,
    "stream": TRUTH,
    "stream_options": _STREAM_OPTIONS,
    "max_tokens": WHOLE,
    "seed": WHOLE,
    "stop": ANYTHING,
    "temperature": REAL,
    "top_p": REAL,
    "frequency_penalty": REAL,
    "presence_penalty": REAL,
    # Beyond Ollama.
    "n": WHOLE,
    "logit_bias": OBJECT,
    "top_k": WHOLE,
    "min_p": REAL,
    "repetition_penalty": REAL,
}
CHAT = Record(
    "ChatCompletionRequest",
    "openai.ChatCompletionRequest",
    {
        **_SAMPLING,
        "messages": Slice(_MESSAGE, "[]openai.Message"),
        "response_format": Record(
            "ResponseFormat", "openai.ResponseFormat", {"type": TEXT, "json_schema": ANYTHING}
        ),
        "tools": TOOLS,
        "reasoning": Record("Reasoning", "openai.Reasoning", {"effort": TEXT}),
        "reasoning_effort": TEXT,
        "logprobs": TRUTH,
        "top_logprobs": WHOLE,
        "_debug_render_only": TRUTH,
        "max_completion_tokens": WHOLE,
        "tool_choice": ANYTHING,
        "parallel_tool_calls": TRUTH,
    },
)
COMPLETION = Record(
    "CompletionRequest",
    "openai.CompletionRequest",
    {
        **_SAMPLING,
        "prompt": ANYTHING,
        "suffix": TEXT,
        "logprobs": WHOLE,
        "_debug_render_only": TRUTH,
    },
)
EMBEDDINGS = Record(
    "EmbedRequest",
    "openai.EmbedRequest",
    {"input": ANYTHING, "model": TEXT, "dimensions": WHOLE, "encoding_format": TEXT},
)
RESPONSES = Record(
    "ResponsesRequest",
    "openai.ResponsesRequest",
    {
        "model": TEXT,
        "input": ANYTHING,
        "instructions": TEXT,
        "max_output_tokens": WHOLE,
        "reasoning": Record(
            "ResponsesReasoning",
            "openai.ResponsesReasoning",
            {"effort": TEXT, "summary": TEXT, "generate_summary": TEXT},
        ),
        "temperature": REAL,
        "top_p": REAL,
        "text": ANYTHING,
        "tools": Slice(OBJECT, "[]openai.ResponsesTool"),
        "tool_choice": ANYTHING,
        "truncation": TEXT,
        "stream": TRUTH,
        "parallel_tool_calls": TRUTH,
        "metadata": ANYTHING,
    },
)
