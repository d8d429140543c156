"""Messages that explain: where the model looks in a user's logs, which statements are near. As `messages.py`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from qanchor.serving.messages import Failure, Name, Question, UserId, Users, bounded

QUESTIONS = 32
"""Of one request for attention: it watches the model at work, for a person."""


class AttentionRequest(Users):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"user_ids": ["u17"], "scenarios": ["takeout"], "queries": ["Will this user book a trip?"]}]
        },
    )
    user_ids: Annotated[list[UserId], Field(min_length=1, max_length=100)]
    scenarios: list[Name] = Field([], max_length=QUESTIONS)
    """Names that `GET /v1/scenarios` lists."""
    queries: list[Question] = Field([], max_length=QUESTIONS)
    """Free questions; they need the scope `embed:*`."""

    @model_validator(mode="after")
    def _something(self) -> AttentionRequest:
        if not 1 <= len(self.scenarios) + len(self.queries) <= QUESTIONS:
            raise ValueError(f"give `scenarios` or `queries`, {QUESTIONS} at most together")
        return self


Shares = dict[str, Annotated[float, Field(ge=0, le=1)]]


class Attention(BaseModel):
    """Where one question looks in a user's prefix: modality -> share; shares sum to 1."""

    user_id: str
    scenario: str | None = None
    query: str
    as_of: str
    base: Shares
    """By the question alone,"""
    tuned: Shares | None
    """and with the scenario's soft prompt; null where it has none."""


class AttentionReply(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "9f0c2f1d7be4a655",
                    "modalities": ["bill", "search"],
                    "data": [
                        {
                            "user_id": "u17",
                            "scenario": "takeout",
                            "query": "Is the user interested in takeaway meals?",
                            "as_of": "2025-06-30T00:00:00Z",
                            "base": {"bill": 0.55, "search": 0.45},
                            "tuned": {"bill": 0.75, "search": 0.25},
                        }
                    ],
                    "errors": [],
                }
            ]
        }
    )
    model: str
    modalities: list[str]
    data: list[Attention]
    errors: list[Failure]


class StatementsRequest(Users):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "user_ids": ["u17", "u42"],
                    "query": "Will this user travel soon?",
                    "statements": ["books a hotel", "books a flight"],
                }
            ]
        },
    )
    scenario: Name | None = None
    """Whose embeddings are held against the statements,"""
    query: Question | None = None
    """or those of a free question, which needs the scope `embed:*`."""
    statements: Annotated[list[Question], Field(min_length=1, max_length=20)]
    """Short phrases that may be true of a user: verbs in the words of the logs."""

    @model_validator(mode="after")
    def _one(self) -> StatementsRequest:
        if (self.scenario is None) == (self.query is None):
            raise ValueError("give either `scenario` or `query`")
        bounded(self, len(self.statements))
        return self


class StatementSimilarity(BaseModel):
    user_id: str
    as_of: str
    statement: str
    similarity: float
    """Half the cosine with the statement less that with its denial, from -1 to 1: a rank, not a probability."""


class StatementsReply(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "9f0c2f1d7be4a655",
                    "data": [
                        {
                            "user_id": "u17",
                            "as_of": "2025-06-30T00:00:00Z",
                            "statement": "books a hotel",
                            "similarity": 0.21,
                        }
                    ],
                    "errors": [],
                }
            ]
        }
    )
    model: str
    data: list[StatementSimilarity]
    errors: list[Failure]
