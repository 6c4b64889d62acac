"""The part of Go's text/template that Ollama's chat templates use."""

from vllama.store.gotemplate.errors import TemplateError
from vllama.store.gotemplate.parser import parse
from vllama.store.gotemplate.run import execute
from vllama.store.gotemplate.tree import Template
from vllama.store.gotemplate.values import Record, Records

__all__ = ["Record", "Records", "Template", "TemplateError", "execute", "parse"]
