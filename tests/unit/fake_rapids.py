"""RAPIDS for machines without a GPU: pandas as cuDF, NumPy as CuPy, and a double of cuDF's WordPiece.

`FakeDevice` is as strict as a GPU: an array that lies on it does not turn into a NumPy array by itself, and does not
mix with one. It notes every call, so that these can be held against the real libraries' signatures.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from dualpath.readability.device import Rapids

CUDA = 2  # DLPack's number for it
MAX_WORD_BYTES = 200
_ASCII_MARKS = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_CHINESE = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class CharacterNormalizer:
    """cuDF's, by its documentation: white space to spaces, controls away, spaces around marks and Chinese characters.

    Lower case takes the accents away. Special tokens, in any case, come out in upper case.
    """

    def __init__(self, do_lower: bool, special_tokens: pd.Series | None = None) -> None:
        tokens = [] if special_tokens is None else [re.escape(token) for token in special_tokens]
        self._do_lower = do_lower
        self._special = re.compile(f"({'|'.join(tokens)})", re.IGNORECASE) if tokens else None

    def normalize(self, text: pd.Series) -> pd.Series:
        return pd.Series([self._normalize(one) for one in text])

    def _normalize(self, text: str) -> str:
        parts = self._special.split(text) if self._special else [text]
        normalize = _normalize_character if self._do_lower else _pad_character
        characters = "".join(map(normalize, parts[0]))
        for special, part in zip(parts[1::2], parts[2::2], strict=True):
            characters += f" {special.upper()} " + "".join(map(normalize, part))
        return characters


@functools.cache
def _normalize_character(character: str) -> str:
    stripped = unicodedata.normalize("NFD", unicodedata.normalize("NFD", character).lower())
    return "".join(_pad_character(part) for part in stripped if unicodedata.category(part) != "Mn")


def _pad_character(character: str) -> str:
    category = unicodedata.category(character)
    if character in "\t\n\r" or category[0] == "Z":
        return " "
    if category in ("Cc", "Cf") or character == "\ufffd":
        return ""
    is_chinese = any(first <= ord(character) <= last for first, last in _CHINESE)
    return f" {character} " if character in _ASCII_MARKS or category[0] == "P" or is_chinese else character


class WordPieceVocabulary:
    """cuDF's: words between spaces, longest piece first; a word of 200 bytes or with an unknown piece is [UNK]."""

    def __init__(self, vocabulary: pd.Series) -> None:
        self._ids = {word: number for number, word in enumerate(vocabulary)}
        self._tokenize_word = functools.lru_cache(100_000)(self._pieces)

    def tokenize(self, text: pd.Series, max_words_per_row: int = 0) -> pd.Series:
        rows = [one.split(" ")[: max_words_per_row or None] for one in text]
        return pd.Series([[piece for word in words if word for piece in self._tokenize_word(word)] for words in rows])

    def _pieces(self, word: str) -> tuple[int, ...]:
        unknown = (self._ids["[UNK]"],)
        if len(word.encode()) >= MAX_WORD_BYTES:
            return unknown
        pieces: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            end = next((e for e in range(len(word), start, -1) if prefix + word[start:e] in self._ids), None)
            if end is None:
                return unknown
            pieces.append(self._ids[prefix + word[start:end]])
            start = end
        return tuple(pieces)


@dataclass(frozen=True, order=True)
class Call:
    """A call that the device code made, by the real libraries' names.

    Attributes:
        owner: "cudf", "cupy", or a class in them, such as "cudf.Series.str".
        name: a function's, class's, method's or property's.
        n_positional: how many arguments by position; -1 where a property was read.
        keywords: names of the arguments by name.
    """

    owner: str
    name: str
    n_positional: int
    keywords: tuple[str, ...] = ()


_OWNERS = {
    pd.Series: "cudf.Series",
    pd.DataFrame: "cudf.DataFrame",
    pd.Index: "cudf.Index",
    pd.RangeIndex: "cudf.RangeIndex",
    type(pd.Series([""]).str): "cudf.Series.str",
    CharacterNormalizer: "cudf.CharacterNormalizer",
    WordPieceVocabulary: "cudf.WordPieceVocabulary",
}


@dataclass
class FakeDevice:
    """A device whose Series, DataFrames and arrays are those of pandas and NumPy, wrapped.

    Attributes:
        calls: what was called so far.
    """

    calls: set[Call] = field(default_factory=set)

    def rapids(self) -> Rapids:
        normalizer, vocabulary = (
            functools.partial(self.call, "cudf", cls.__name__, cls)
            for cls in (CharacterNormalizer, WordPieceVocabulary)
        )
        return Rapids(FakeModule(self, "cudf", pd), FakeModule(self, "cupy", np), normalizer, vocabulary)

    def array(self, values: Any, dtype: Any = None) -> DeviceArray:
        """Put values on the device, as a test's own doing."""
        return DeviceArray(self, np.array(values, dtype))

    def call(self, owner: str, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Note the call, and make it on what is wrapped."""
        self.calls.add(Call(owner, name, len(args), tuple(sorted(kwargs))))
        unwrap = _unwrap_or_host if (owner, name) == ("cupy", "asarray") else _unwrap
        return self.wrap(function(*map(unwrap, args), **{key: unwrap(value) for key, value in kwargs.items()}))

    def wrap(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return DeviceArray(self, value)
        if isinstance(value, list) and value and isinstance(value[0], np.ndarray):  # as of split
            return [DeviceArray(self, each) for each in value]
        return _Wrapped(self, _OWNERS[type(value)], value) if type(value) in _OWNERS else value


def on_host(value: Any) -> Any:
    """Take a value from the device, as a test's own doing."""
    return _unwrap_or_host(value)


def _unwrap_or_host(value: Any) -> Any:
    return value.wrapped if isinstance(value, _Wrapped) else value


def _unwrap(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")  # in CuPy's words
    if isinstance(value, (list, tuple)):
        return type(value)(map(_unwrap, value))
    return {key: _unwrap(item) for key, item in value.items()} if type(value) is dict else _unwrap_or_host(value)


class _Wrapped:
    """A module or object of pandas or NumPy, under its name in RAPIDS."""

    def __init__(self, device: FakeDevice, owner: str, wrapped: Any) -> None:
        self.fake_device, self.owner, self.wrapped = device, owner, wrapped

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.wrapped, name)
        if callable(value):
            return functools.partial(self.fake_device.call, self.owner, name, value)
        if not name.startswith("__"):  # Python's own questions
            self.fake_device.calls.add(Call(self.owner, name, -1))
        return self.fake_device.wrap(value)

    def __len__(self) -> int:
        self.fake_device.calls.add(Call(self.owner, "__len__", 0))
        return len(self.wrapped)


def _operator(name: str) -> Callable[..., Any]:
    def apply(self: _Wrapped, *args: Any) -> Any:
        return self.fake_device.call(self.owner, name, getattr(self.wrapped, name), *args)

    return apply


for _name in (
    "getitem",
    "setitem",
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "and",
    "invert",
):
    setattr(_Wrapped, f"__{_name}__", _operator(f"__{_name}__"))


class DeviceArray(_Wrapped):
    """A CuPy array, as far as it keeps apart from NumPy's."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, device: FakeDevice, wrapped: np.ndarray) -> None:
        super().__init__(device, "cupy.ndarray", wrapped)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_ufunc__(self, ufunc: np.ufunc, _: str, *inputs: Any, **kwargs: Any) -> Any:
        return self.fake_device.call("cupy", ufunc.__name__, ufunc, *inputs, **kwargs)

    def __array_function__(self, function: Any, _: Any, args: Any, kwargs: Any) -> Any:
        return self.fake_device.call("cupy", function.__name__, function, *args, **kwargs)

    def __iter__(self) -> Iterator[DeviceArray]:
        self.fake_device.calls.add(Call(self.owner, "__iter__", 0))
        return (self[index] for index in range(len(self)))

    def __dlpack__(self, **_: Any) -> DeviceArray:
        if not self.wrapped.flags.c_contiguous:
            raise BufferError("DLPack tensor is not contiguous.")  # in Triton's words, which takes no other
        return self

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, 0

    def get(self) -> np.ndarray:
        self.fake_device.calls.add(Call(self.owner, "get", 0))
        return self.wrapped.copy()

    @property
    def device(self) -> SimpleNamespace:
        self.fake_device.calls.add(Call(self.owner, "device", -1))
        synchronize = functools.partial(self.fake_device.call, "cupy.cuda.Device", "synchronize", lambda: None)
        return SimpleNamespace(synchronize=synchronize)


class FakeModule(_Wrapped):
    """pandas as cudf, or NumPy as cupy."""

    def __init__(self, device: FakeDevice, name: str, module: ModuleType) -> None:
        super().__init__(device, name, module)

    def from_dlpack(self, tensor: Any) -> Any:
        self.fake_device.calls.add(Call("cupy", "from_dlpack", 1))
        return tensor.__dlpack__()
