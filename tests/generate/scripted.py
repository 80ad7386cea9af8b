"""An engine without a model, which says what a script has for the prompt, byte by byte."""

import collections
import dataclasses

import numpy as np

from kanana_jax.data import chat, tokenizer
from kanana_jax.generate import Piece, Request, text
from kanana_jax.generate.chat import Template
from kanana_jax.generate.load import OwnFormat
from kanana_jax.generate.logprobs import Logprobs

_EOS = 257
ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "\ud55c"}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
# By a word of the user's last message.
SAYS = {
    "hello": "Hello, \ud55c\uad6d!",
    "add": ADD,
    "both": f"I ask.\n{ADD}\n{NOW}",
    "think": "<think>\nso\nit is\n</think>\n\nDone.",
    "plan": f"<think>\nadd\n</think>\n\n{ADD}",
    "broken": '<tool_call>\n{"name": "add"}\n</tool_call> oh',
    "json": '{"name": "Kim", "age": 3}',
    "long": "word " * 30,
    "nothing": "",
}
_USED = tokenizer.byte_tokenizer()


@dataclasses.dataclass
class _Running:
    request: Request
    stream: text.TextStream
    left: collections.deque  # of tokens
    num_drawn: int = 0


def say(prompt):
    """An answer in the hermes format; after results of tools, what they were."""
    _, mark, last = prompt.rpartition("<|im_start|>user\n")
    if "<tool_response>" in last:
        results = [part.partition("</tool_response>")[0] for part in last.split("<tool_response>")]
        return "It is " + " and ".join(part.strip() for part in results[1:])
    asked = last if mark else prompt
    return next((said for word, said in SAYS.items() if word in asked), "What?")


class Scripted:
    """What `serve.Worker` needs of an engine. `say`: from a prompt's text to an answer's."""

    def __init__(self, say, *, tokens_per_step=3, num_rows=8):
        self._say, self._tokens_per_step, self._num_rows = say, tokens_per_step, num_rows
        self._requests = {}
        self._number = 0
        self.asked = []  # all requests that were submitted

    @property
    def is_idle(self):
        return not self._requests

    @property
    def num_running(self):
        return len(self._requests)

    def check(self, request):
        pass

    def submit(self, request):
        said = self._say(_USED.decode_marked(request.prompt))
        ids = collections.deque([*_USED.encode_marked(said), _EOS])
        decode = _USED.decode_marked if request.has_special_tokens else _USED.decode
        self._requests[self._number] = _Running(request, text.TextStream(decode, request.stop), ids)
        self.asked.append(request)
        self._number += 1
        return self._number - 1

    def cancel(self, number):
        self._requests.pop(number, None)

    def step(self):
        pieces = []
        for number, running in [*self._requests.items()][: self._num_rows]:
            for _ in range(self._tokens_per_step):
                pieces.append(self._piece(number, running))
                if pieces[-1].finish_reason:
                    del self._requests[number]
                    break
        return pieces

    def _piece(self, number, running):
        token = running.left.popleft()
        running.num_drawn += 1
        new, reason = running.stream.push(token), None
        if token == _EOS:
            reason, new = "stop", running.stream.finish()
        elif running.stream.is_stopped:
            reason = "stop"
        elif running.num_drawn == running.request.max_tokens:
            reason, new = "length", new + running.stream.finish()
        top = np.arange(20) + token
        found = Logprobs(np.float32(-0.5), top, -0.5 - np.arange(20, dtype=np.float32))
        if running.request.num_top_logprobs is None:
            found = None
        return Piece(number, new, token, reason, logprobs=found)


def with_template(loaded, source, **more):
    """The model with another template, and with its format if it is one of ours."""
    fmt = chat.own(source)
    own = fmt and OwnFormat(fmt, _USED)
    return loaded._replace(template=Template(source, {}, **more), own_format=own)
