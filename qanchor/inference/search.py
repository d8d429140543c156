"""The users nearest to a vector, exactly: a matrix product block by block, whatever the blocks.

A tuned embedding says mostly what its readout has written (model/readout.py), of which no sentence knows. So users are
compared by what is left without it.

Products in single precision only choose candidates; these are scored again in double precision. So the result does not
depend on how the rows were cut into blocks, on the machine, or on the order in which shards are read.

Shapes: N users of a block, C candidates among them, O dimensions, R statements, or directions of a readout.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qanchor.errors import ModelError
from qanchor.inference.engine import QAnchor
from qanchor.useru.statements import Framing

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
BLOCK = 65_536
"""Users of one matrix product."""
SLACK = 4.0
"""How far below the k-th a candidate may lie, in units of what a product of O numbers rounds by: two would do."""
COARSE = 0.01
"""The same where a readout is left out, as a share of the vector's length: what is left of an embedding is a sixtieth
of it, or less, and rounds as much more."""
NOTHING: Floats = np.zeros((0, 0), np.float32)
"""No directions."""


class Near(NamedTuple):
    user_id: str
    score: float
    """The inner product with the vector."""


def nearest(
    blocks: Iterable[tuple[pa.Array, Floats]], vector_O: npt.ArrayLike, k: int, along_RO: Floats | None = None
) -> list[Near]:
    """The k users with the largest inner product, best first; equals are in the order of their ids.

    Args:
        blocks: [N] users and their embeddings [N, O], of unit length; as many blocks as there are, one in memory.
        along_RO: directions to be left out of account, as `without` does.
    """
    vector = np.asarray(vector_O, np.float64)
    along = NOTHING if along_RO is None else along_RO
    rounding = COARSE if len(along) else SLACK * len(vector) * float(np.finfo(np.float32).eps)
    slack = rounding * float(np.linalg.norm(vector))
    user_K: npt.NDArray[np.str_] = np.empty(0, np.str_)
    score_K: Doubles = np.empty(0)
    for user_N, embedding_NO in blocks:
        product_N = _products(embedding_NO, vector.astype(np.float32), along)
        # whoever may be among the k best, of this block and of all before
        floor = float(score_K[-1]) if len(score_K) == k else -np.inf
        if len(product_N) > k:
            floor = max(floor, float(np.partition(product_N, -k)[-k]))
        row_C = np.flatnonzero(product_N >= floor - slack)
        user_C = np.array(user_N.take(pa.array(row_C)).to_pylist(), np.str_)
        # the sum of each row by itself: a product of matrices would round by its shape
        score_C = (without(along, embedding_NO[row_C]) * vector).sum(1)
        user_K, score_K = _best(np.concatenate([user_K, user_C]), np.concatenate([score_K, score_C]), k)
    return [Near(*pair) for pair in zip(user_K.tolist(), score_K.tolist(), strict=True)]


def without(along_RO: Floats, embedding_CO: Floats) -> Doubles:
    """[C, O] embeddings less what they hold along orthonormal directions, of unit length; as they are without any."""
    rest_CO = embedding_CO.astype(np.float64)
    for along_O in along_RO.astype(np.float64):
        rest_CO = rest_CO - (rest_CO * along_O).sum(1)[:, None] * along_O
    return rest_CO / np.maximum(np.linalg.norm(rest_CO, axis=1)[:, None], 1e-12) if len(along_RO) else rest_CO


def _products(embedding_NO: Floats, vector_O: Floats, along_RO: Floats) -> Floats:
    """[N] what `without` and the product with the vector come to, in single precision."""
    product_N: Floats = embedding_NO @ across(along_RO, vector_O)
    if len(along_RO):
        held_N = np.square(embedding_NO @ along_RO.T).sum(1)
        product_N = product_N / np.sqrt(np.maximum(1 - held_N, np.float32(1e-12)))
    return product_N


def across(along_RO: Floats, vector_O: Floats) -> Floats:
    """[O] what a vector holds across all of these directions."""
    return (vector_O - (along_RO @ vector_O) @ along_RO).astype(np.float32) if len(along_RO) else vector_O


def direction(model: QAnchor, framing: Framing, positive: str | None, negative: str | None = None) -> Floats:
    """[O] along which those users lie of whom the phrase `positive` is true, and against which those of `negative`.

    A phrase's inner product with a user's embedding, from -1 to 1, is half of cos(user, it happens) less cos(user, it
    does not happen). Training centres the answers of each question by themselves, so that one statement alone also
    holds what all answers to its question share; the difference of two does not.

    Raises:
        ModelError: a phrase without a word in it, or none at all.
    """
    signed = [(sign, phrase) for sign, phrase in ((0.5, positive), (-0.5, negative)) if phrase is not None]
    if not signed or not all(phrase.strip() for _, phrase in signed):
        raise ModelError(f"got {positive!r} and {negative!r}, expected a phrase about the user such as 'books a hotel'")
    whole_O = sum(
        sign * (_mean(model.answers(framing.happens(phrase))) - _mean(model.answers(framing.does_not(phrase))))
        for sign, phrase in signed
    )
    return np.asarray(whole_O, np.float32)


def _mean(answer_RO: Floats) -> Floats:
    """[O] of unit length."""
    mean_O: Floats = answer_RO.mean(0)
    unit_O: Floats = mean_O / np.maximum(np.linalg.norm(mean_O), np.float32(1e-12))
    return unit_O


def _best(user_C: npt.NDArray[np.str_], score_C: Doubles, k: int) -> tuple[npt.NDArray[np.str_], Doubles]:
    order = np.lexsort((user_C, -score_C))[:k]
    return user_C[order], score_C[order]
