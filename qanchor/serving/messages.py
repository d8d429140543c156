"""What requests and replies say. One class a message; a request refuses keys that it does not know."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, model_validator

USERS = 1000
PAIRS = 10_000
"""Users times questions of one request."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"


def _sayable(text: str) -> str:
    # half a surrogate pair is JSON, but no text: it has no hash and no tokens
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a surrogate pair, expected text") from None
    return text


Text = Annotated[str, AfterValidator(_sayable)]
UserId = Annotated[Text, Field(min_length=1, max_length=256)]
Name = Annotated[Text, Field(min_length=1, max_length=64)]
Question = Annotated[Text, Field(min_length=1, max_length=1000)]
Moment = Literal["refresh", "now"] | AwareDatetime


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Users(Request):
    """Whom, for what, as of when."""

    user_ids: Annotated[list[UserId], Field(min_length=1, max_length=USERS)]
    as_of: Moment = "refresh"
    """`refresh`: the last one. `now`, or a moment with its zone: the profile of the last refresh plus the events that
    were appended since and lie before it."""


class EmbedRequest(Users):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"user_ids": ["u17", "u42"], "scenarios": ["takeout"]},
                {"user_ids": ["u17"], "queries": ["Will this user book a trip soon?"], "as_of": "now"},
            ]
        },
    )
    scenarios: Annotated[list[Name], Field(max_length=100)] = []
    """Names that `GET /v1/scenarios` lists."""
    queries: Annotated[list[Question], Field(max_length=100)] = []
    """Free questions; they need the scope `embed:*`."""
    encoding_format: Literal["float", "base64"] = "float"
    """`base64`: little-endian float32."""

    @model_validator(mode="after")
    def _something(self) -> EmbedRequest:
        questions = len(self.scenarios) + len(self.queries)
        if not questions:
            raise ValueError("nothing to embed for: give `scenarios` or `queries`")
        bounded(self, questions)
        return self


class ScoreRequest(Users):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"user_ids": ["u17", "u42"], "scenarios": ["takeout"]}]}
    )
    scenarios: Annotated[list[Name], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _few(self) -> ScoreRequest:
        bounded(self, len(self.scenarios))
        return self


def bounded(request: Users, questions: int) -> None:
    if len(request.user_ids) * questions > PAIRS:
        raise ValueError(f"{len(request.user_ids)} users x {questions} questions, expected at most {PAIRS} pairs")


class Embedding(BaseModel):
    user_id: str
    scenario: str | None = None
    query: str | None = None
    as_of: str
    embedding: list[float] | str


class Failure(BaseModel):
    """A user (or an event) that failed alone."""

    user_id: str
    reason: str


class EmbedReply(BaseModel):
    """Users in the order of the request, each with its scenarios and then its queries; users that failed are apart."""

    model: str
    dimensions: int
    data: list[Embedding]
    errors: list[Failure]


class Score(BaseModel):
    user_id: str
    scenario: str
    as_of: str
    probability: float


class ScoreReply(BaseModel):
    model: str
    data: list[Score]
    errors: list[Failure]


class Event(Request):
    id: Annotated[Text, Field(min_length=1, max_length=200)]
    """The sender's own id of the event: sending it again changes nothing."""
    row: Annotated[dict[Text, Text | int | float | bool | None], Field(max_length=200)]
    """Column -> value, as in the log files of the source."""


class AppendRequest(Request):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "source": "search",
                    "events": [
                        {
                            "id": "s-1",
                            "row": {
                                "user_id": "u17",
                                "ts": "2025-07-01T09:30:00",
                                "query": "hotel",
                                "vertical": "travel",
                            },
                        }
                    ],
                }
            ]
        },
    )
    source: Annotated[Text, Field(min_length=1, max_length=500)]
    """`path` of one of the config's sources, or its modality where it is the only one of that."""
    events: Annotated[list[Event], Field(min_length=1, max_length=USERS)]


class EventFailure(BaseModel):
    id: str
    reason: str


class AppendReply(BaseModel):
    """When it comes, every event that is not among the errors is on disk."""

    accepted: int
    duplicates: int
    """Ids that were there already."""
    errors: list[EventFailure]


class RegisterRequest(Request):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "trip", "query": "Will this user book a trip soon?"}]},
    )
    name: Annotated[str, Field(pattern=NAME)]
    query: Question


class Scenario(BaseModel):
    name: str
    query: str
    tuned: bool
    """It has a soft prompt."""
    stored: bool
    """Embeddings of the last refresh are there."""
    scored: bool
    """There is a probe for `/v1/score`."""


class ScenariosReply(BaseModel):
    data: list[Scenario]


class SearchRequest(Request):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"sentence": "orders food to the office", "scenario": "takeout", "k": 10}]},
    )
    scenario: Name
    """Whose embeddings are searched."""
    sentence: Question | None = None
    """A phrase that is to be true of the users,"""
    user_id: UserId | None = None
    """or a user whom they are to be like."""
    k: Annotated[int, Field(ge=1, le=1000)] = 10

    @model_validator(mode="after")
    def _one(self) -> SearchRequest:
        if (self.sentence is None) == (self.user_id is None):
            raise ValueError("give either `sentence` or `user_id`")
        return self


class Near(BaseModel):
    user_id: str
    similarity: float
    """Cosine with the user; with a sentence, half the cosine with it less that with its denial."""


class SearchReply(BaseModel):
    model: str
    as_of: str
    data: list[Near]


class Trace(BaseModel):
    place: str
    before: int
    after: int


class ForgetReply(BaseModel):
    data: list[Trace]


class TimelineEvent(BaseModel):
    time: str
    modality: str
    text: str
    value: float | None


class TimelineReply(BaseModel):
    user_id: str
    as_of: str
    data: list[TimelineEvent]
    """Newest first."""


AUDITED: dict[str, JsonValue] = {
    "lines": 1204,
    "first": 1,
    "verified": 1188,
    "at": "2025-06-30T09:30:00Z",
    "signed": True,
    "problems": [],
}


class AuditState(BaseModel):
    """How far the log of who did what was found whole, and when."""

    model_config = ConfigDict(json_schema_extra={"examples": [AUDITED]})
    lines: int
    """On the disk now."""
    first: int
    """Where the check began: when the service starts, at the newest file; when it is asked to verify, at the oldest."""
    verified: int
    """The last line that follows on all before it."""
    at: str
    """When it was looked at."""
    signed: bool
    """Whether the end is signed (QANCHOR_AUDIT_KEY): without it the check finds accidents, not forgers."""
    problems: list[str]
    """Lines that were changed, lost or put elsewhere: the first twenty."""


class StatusReply(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "9f0c2f1d7be4a655",
                    "as_of": "2025-06-30",
                    "users": 8000,
                    "loaded": "2025-06-30T06:00:01+00:00",
                    "stale": None,
                    "appended": 17,
                    "shards": {"0": "2025-06-30", "1": "2025-06-30"},
                    "audit": AUDITED,
                }
            ]
        }
    )
    model: str
    as_of: str | None
    """Of the last refresh that is answered from; null before the first."""
    users: int
    loaded: str
    stale: str | None
    """Why something newer on the disk is not answered from yet."""
    appended: int
    """Events in the inbox."""
    shards: dict[str, str]
    """Shard -> as_of of its profiles."""
    audit: AuditState


class Problem(BaseModel):
    """Every reply that is not a success."""

    error: str
    where: list[str] = []
    """Of a request that cannot be read: the keys."""
