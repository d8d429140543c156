"""OULAD, the Open University's students: registrations, courses, submissions and scores (clicks are not read).

A user is a student. The publisher counts days from the start of a presentation; here they are dates: B starts on
1 February, J on 1 October of its year. `final_result` and `date_unregistration` are as of the end: they go into label
files only, and only for students who were still registered at the as_of, 90 days after the start.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from qanchor.datasets.tables import Table, publish

ORIGIN = "https://analyse.kmi.open.ac.uk/open-dataset (OULAD, unpack it)"

STUDENTS = Table(
    ("student.parquet", "studentInfo.csv"),
    {
        "code_module": pl.String,
        "code_presentation": pl.String,
        "id_student": pl.Int64,
        "gender": pl.String,
        "region": pl.String,
        "highest_education": pl.String,
        "imd_band": pl.String,
        "age_band": pl.String,
        "num_of_prev_attempts": pl.Int64,
        "studied_credits": pl.Int64,
        "disability": pl.Boolean,
        "final_result": pl.String,
    },
    ORIGIN,
)
REGISTRATIONS = Table(
    ("student_registration.parquet", "studentRegistration.csv"),
    {
        "code_module": pl.String,
        "code_presentation": pl.String,
        "id_student": pl.Int64,
        "date_registration": pl.Int64,
        "date_unregistration": pl.Int64,
    },
    ORIGIN,
)
ASSESSMENTS = Table(
    ("assessment.parquet", "assessments.csv"),
    {
        "code_module": pl.String,
        "code_presentation": pl.String,
        "id_assessment": pl.Int64,
        "assessment_type": pl.String,
        "date": pl.Int64,
    },
    ORIGIN,
)
SUBMISSIONS = Table(
    ("student_assessment.parquet", "studentAssessment.csv"),
    {
        "id_assessment": pl.Int64,
        "id_student": pl.Int64,
        "date_submitted": pl.Int64,
        "is_banked": pl.Boolean,
        "score": pl.Float64,
    },
    ORIGIN,
)

ENROLMENT = ["code_module", "code_presentation", "id_student"]
AS_OF_DAY, PREDICT_DAYS = 90, 90
DEMOGRAPHICS = ["gender", "region", "highest_education", "deprivation", "age_band", "disability"]
DEMOGRAPHICS += ["previous_attempts", "studied_credits"]


def prepare(raw: Path, data_dir: Path) -> Path:
    """Write registrations, courses, students, submissions, labels and `qanchor.yaml` under `raw`; returns its path.

    Raises:
        DataError: `data_dir` lacks a table, or one cannot be read.
    """
    enrolled = STUDENTS.read(data_dir).join(REGISTRATIONS.read(data_dir), on=ENROLMENT)
    submitted = SUBMISSIONS.read(data_dir).join(ASSESSMENTS.read(data_dir), on="id_assessment")
    # 45 students have no day of registration: nobody knows when they came
    dated = enrolled.filter(pl.col("date_registration").is_not_null())
    frames = {
        "registration": dated.select(
            _user(), _time("date_registration"), _module(), _term(), lead=_lead(pl.col("date_registration"))
        ),
        "student": dated.select(
            _user(),
            _time("date_registration"),
            "gender",
            "region",
            "highest_education",
            "age_band",
            "studied_credits",
            deprivation=pl.col("imd_band").str.strip_suffix("%").fill_null("unknown"),
            disability=pl.when("disability").then(pl.lit("yes")).otherwise(pl.lit("no")),
            previous_attempts="num_of_prev_attempts",
        ),
        # who comes late starts on the day of registration; who left before the start is not known to have left
        "course": dated.select(
            _user(), (pl.max_horizontal(_start(), _date("date_registration"))).alias("time"), _module(), _term()
        ),
        "submission": submitted.select(
            _user(),
            _time("date_submitted"),
            _module(),
            kind="assessment_type",
            result=_result(pl.col("score")),
            timing=_timing(pl.col("date_submitted") - pl.col("date"), pl.col("is_banked")),
            score="score",
        ),
    }
    labels = {f"labels/{name}": frame for name, frame in _labels(enrolled, submitted).items()}
    return publish(raw, {**frames, **labels}, Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def _labels(enrolled: pl.DataFrame, submitted: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """user_id, as_of, label of the scenarios that events do not tell, for those still registered at the as_of.

    A student of several courses has the label when one of the courses has it.
    """
    left = pl.col("date_unregistration")
    # "Withdrawn" without a day may have been before the as_of: such an enrolment is not asked about
    registered = enrolled.filter(
        pl.when(left.is_null()).then(pl.col("final_result") != "Withdrawn").otherwise(left >= AS_OF_DAY)
    )
    again = (
        submitted.filter(
            ~pl.col("is_banked"),
            pl.col("date_submitted").is_between(AS_OF_DAY, AS_OF_DAY + PREDICT_DAYS, closed="left"),
        )
        .select(*ENROLMENT, again=pl.lit(True))
        .unique()
    )
    asked = registered.join(again, on=ENROLMENT, how="left")
    answers = {
        "withdraws": left.is_not_null(),
        "fails": pl.col("final_result") == "Fail",
        "distinction": pl.col("final_result") == "Distinction",
        "submits_again": pl.col("again").is_not_null(),
    }
    as_of = (_start() + pl.duration(days=AS_OF_DAY)).alias("as_of")
    return {
        name: asked.group_by(_user(), as_of).agg(label=answer.any().cast(pl.Int64)) for name, answer in answers.items()
    }


def _user() -> pl.Expr:
    return pl.col("id_student").cast(pl.String).alias("user_id")


def _module() -> pl.Expr:
    return pl.col("code_module").alias("module")


def _term() -> pl.Expr:
    return pl.when(_presentation_letter() == "B").then(pl.lit("spring")).otherwise(pl.lit("autumn")).alias("term")


def _presentation_letter() -> pl.Expr:
    return pl.col("code_presentation").str.slice(4)


def _start() -> pl.Expr:
    """The first day of a presentation such as 2013B."""
    month = pl.when(_presentation_letter() == "B").then(2).otherwise(10)
    return pl.datetime(pl.col("code_presentation").str.slice(0, 4).cast(pl.Int32), month, 1)


def _date(day: str) -> pl.Expr:
    return _start() + pl.duration(days=pl.col(day))


def _time(day: str) -> pl.Expr:
    return _date(day).alias("time")


def _lead(day: pl.Expr) -> pl.Expr:
    return (
        pl.when(day >= 0)
        .then(pl.lit("after the start"))
        .when(day >= -30)
        .then(pl.lit("in the month before the start"))
        .when(day >= -90)
        .then(pl.lit("one to three months before the start"))
        .otherwise(pl.lit("more than three months before the start"))
    )


def _result(score: pl.Expr) -> pl.Expr:
    return (
        pl.when(score >= 80)
        .then(pl.lit("80 or more"))
        .when(score >= 60)
        .then(pl.lit("60 to 79"))
        .when(score >= 40)
        .then(pl.lit("40 to 59"))
        .when(score < 40)
        .then(pl.lit("below 40"))
        .otherwise(pl.lit("not marked"))
    )


def _timing(delay: pl.Expr, banked: pl.Expr) -> pl.Expr:
    """Days after the deadline, in words; the publisher knows no deadline of some exams."""
    return (
        pl.when(banked)
        .then(pl.lit("carried over from an earlier attempt"))
        .when(delay.is_null())
        .then(pl.lit("at the end"))
        .when(delay <= -7)
        .then(pl.lit("a week or more early"))
        .when(delay < 0)
        .then(pl.lit("early"))
        .when(delay == 0)
        .then(pl.lit("on the last day"))
        .when(delay < 7)
        .then(pl.lit("late"))
        .otherwise(pl.lit("a week or more late"))
    )
