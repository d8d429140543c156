"""UserU in English."""

from qanchor.useru.phrases import Phrases, Topic

ENGLISH = Phrases(
    comma=", ",
    pause=", ",
    semicolon="; ",
    conjunction=" or ",
    periods={1: "day", 7: "week", 14: "two weeks", 28: "month", 30: "month", 31: "month", 90: "three months"},
    days="{days} days",
    times=("once", "twice", "{count} times"),
    future=Topic(
        questions=("What are the user's most likely actions in the next period?",),
        answers=("{items}.",),
        nothing=("No activity at all in the next {period}.",),
    ),
    focus=Topic(
        questions=(
            "Will the user go for {concept} in the next {period}?",
            "How often will {concept} come up for this user over the next {period}?",
            "Does anything to do with {concept} lie ahead in the next {period}, and when?",
            "Predict what the user does around {concept} in the next {period}.",
            "Will the user show any interest in {concept} within the next {period}?",
            "How likely is the user to turn to {concept} in the coming {period}?",
        ),
        answers=("{often}, {onset}: {named}.", "Yes, {often} and {onset}: {named}.", "{named}; {often}, {onset}."),
        nothing=(
            "No {concept} at all in the next {period}{otherwise}.",
            "Never, nothing to do with {concept} in the next {period}{otherwise}.",
        ),
    ),
    fact=Topic(
        questions=(
            "How much of the user's life is about {concept}?",
            "Is the user interested in {concept}?",
            "How often and how recently has the user turned to {concept}?",
            "What do the logs say about this user and {concept}?",
            "What are the user's habits when it comes to {concept}?",
        ),
        answers=(
            "{often}, most recently {ago}: {named}{when}{amount}{trend}.",
            "{named}: {often}, the last time {ago}{trend}{when}{amount}.",
        ),
        nothing=(
            "No sign of {concept} in the last {days} days{otherwise}.",
            "Nothing to do with {concept} in the last {days} days{otherwise}.",
        ),
    ),
    habits={
        "activity": Topic(
            questions=(
                "How active is the user?",
                "How busy are the user's days here?",
                "Is the user's activity high or low, and is it growing?",
                "How much does the user do, and how often?",
            ),
            answers=(
                "Active {often}, {level}; {events} events in {days} days{trend}.",
                "{events} events in {days} days, {level}, active {often}{trend}.",
            ),
            nothing=("No activity in the last {days} days.", "Not active at all for {days} days."),
        ),
        "day": Topic(
            questions=(
                "At what time of the day is the user active?",
                "Is this a morning or an evening person?",
                "When during the day does the user usually show up?",
                "What does the user's typical day look like by the clock?",
            ),
            answers=(
                "Mostly {first} ({share}){second}{rarely}.",
                "{share} {first}{second}{rarely}.",
            ),
            nothing=(
                "Nothing in the logs tells the time of day; active {often}.",
                "No time of day to go by; active {often}.",
            ),
        ),
        "week": Topic(
            questions=(
                "Is the user more active on weekdays or at weekends?",
                "What does the user's week look like?",
                "On which days of the week is the user busiest?",
                "Are the weekends different for this user?",
            ),
            answers=("{week}; busiest on {busiest}, quietest on {quietest}.", "Busiest on {busiest}; {week}."),
            nothing=(
                "Too little activity to tell the days apart; active {often}.",
                "No rhythm of the week to be seen; active {often}.",
            ),
        ),
        "spending": Topic(
            questions=(
                "How large is the {value} in the user's {modality} record?",
                "What {value} is usual for the user, going by the {modality} record?",
                "Is the user's {value} in {modality} small or large?",
                "How much {value} does the user have in {modality}, and for what?",
            ),
            answers=(
                "Usually {typical} a time, the largest {largest}, {total} in all over {days} days; most for {kind}.",
                "Most for {kind}: usually {typical} a time, the largest {largest}, {total} in all over {days} days.",
            ),
            nothing=(
                "No {value} in {modality} in the last {days} days{otherwise}.",
                "Nothing with any {value} in {modality}{otherwise}.",
            ),
        ),
        "favourites": Topic(
            questions=(
                "What does the user come back to most in the {modality} record?",
                "What are the user's favourites in {modality}?",
                "What does the user's {modality} record consist of?",
                "Which entries in {modality} are typical of this user?",
            ),
            answers=("{texts} ({often}, most recently {ago}).", "Above all {texts}; {often}, most recently {ago}."),
            nothing=(
                "Nothing in {modality} in the last {days} days{otherwise}.",
                "The {modality} record is empty{otherwise}.",
            ),
        ),
        "profile": Topic(
            questions=(
                "Who is the user, going by the {modality} record?",
                "What is known about the user's circumstances?",
                "Describe the user by the {modality} data.",
                "Which kind of customer is this, as far as the {modality} record tells?",
            ),
            answers=("{items}.", "Most recently: {items}."),
            nothing=("Nothing in {modality} in the last {days} days{otherwise}.",),
        ),
        "interests": Topic(
            questions=(
                "What is the user mainly interested in?",
                "What kinds of things does the user do most?",
                "Which areas of life show up most in the user's logs?",
                "Describe the user's main interests.",
            ),
            answers=("{kinds}.", "Above all {kinds}."),
            nothing=("No interests to be seen in the last {days} days.", "Nothing in the logs points to an interest."),
        ),
        "mix": Topic(
            questions=(
                "How is the user's activity spread over the kinds of logs?",
                "Through which channels does the user act?",
                "Which kinds of records make up the user's activity?",
                "What is the mix of the user's activity?",
            ),
            answers=("{modalities}.", "By number of events: {modalities}."),
            nothing=("No activity of any kind in the last {days} days.", "All kinds of records are empty."),
        ),
        "regularity": Topic(
            questions=(
                "How regular is the user's activity?",
                "Does the user come at steady intervals or in bursts?",
                "How long are the breaks that the user takes?",
                "Is the user's rhythm steady?",
            ),
            answers=(
                "Active {rhythm}, {gap}; {active} active days.",
                "{gap}; active {rhythm}, on {active} days in all.",
            ),
            nothing=("Too few active days to tell; active {often}.", "Active {often}, so no rhythm to be seen."),
        ),
        "newest": Topic(
            questions=(
                "What has the user done most recently?",
                "What was the user's latest activity?",
                "When was the user last seen, and doing what?",
                "What is on the user's mind just now?",
            ),
            answers=("{texts}, the newest {ago}.", "Last seen {ago}: {texts}."),
            nothing=("Not seen in the last {days} days.", "Nothing recent: no event in {days} days."),
        ),
        "breadth": Topic(
            questions=(
                "How varied is what the user does?",
                "Does the user try new things or stay with the same ones?",
                "How many different things does the user do?",
                "Is the user's behaviour broad or narrow?",
            ),
            answers=(
                "{repeats}: {distinct} different things of {kinds} kinds, most of all {kind}.",
                "{distinct} different things of {kinds} kinds, above all {kind}; {repeats}.",
            ),
            nothing=("Nothing done in the last {days} days.", "No activity, so no variety either."),
        ),
        "month": Topic(
            questions=(
                "How does the user's activity move through the month?",
                "Is there a payday rhythm in the user's behaviour?",
                "At which time of the month is the user busiest?",
                "Does the user act early or late in the month?",
            ),
            answers=(
                "Busiest {third} ({share}), most of all on day {date} of the month{money}.",
                "The peak is day {date} of the month; busiest {third} ({share}){money}.",
            ),
            nothing=(
                "Too little activity to see a rhythm of the month; active {often}.",
                "No rhythm of the month to be seen; active {often}.",
            ),
        ),
        "change": Topic(
            questions=(
                "What has changed in the user's behaviour lately?",
                "What does the user do more or less than before?",
                "Are the user's interests shifting?",
                "In which direction is the user moving?",
            ),
            answers=(
                "{change} in the last {half} days; all in all {trend}.",
                "In the last {half} days {change}; in all {trend}.",
            ),
            nothing=(
                "No clear change in what the user does; active {often}.",
                "Much the same as before, or too little to tell; active {often}.",
            ),
        ),
    },
    often=(
        "never",
        "once",
        "twice",
        "a few times",
        "in short bursts",
        "about once a week",
        "several times a week",
        "almost every day",
    ),
    otherwise=(
        ", nor anything else",
        ", only one thing of another kind",
        ", only two things of another kind",
        ", but other things a few times",
        ", but other things in short bursts",
        ", but other things about once a week",
        ", but other things several times a week",
        ", but other things almost every day",
    ),
    ago=(
        "within the last day",
        "within the last three days",
        "within the last week",
        "one to two weeks ago",
        "two to four weeks ago",
        "more than four weeks ago",
    ),
    onset=(
        "early in the period",
        "in the middle of the period",
        "late in the period",
        "from early on",
        "from the middle of the period on",
        "only late in the period",
    ),
    trend=("", "all of it recent", "more than before", "about as much as before", "less than before"),
    part=("at night", "in the morning", "in the afternoon", "in the evening"),
    week=(
        "almost only on weekdays",
        "rather on weekdays",
        "evenly through the week",
        "rather at weekends",
        "mostly at weekends",
    ),
    weekday=("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    third=("in the first ten days of the month", "in the middle of the month", "from the 21st on"),
    mostly="mostly ",
    amount="typical {value} ",
    below_zero="below zero",
    share=("under 5%", *(f"about {tenth}0%" for tenth in range(1, 10)), "nearly all"),
    part_of_all="{name} ({share})",
    level=("one thing at a time", "two or three things a day", "many things a day", "dozens of things a day"),
    gap=(
        "never away for more than two days",
        "never away for more than four days",
        "away for up to a week",
        "away for up to two weeks",
        "away for up to a month",
        "away for more than a month",
    ),
    rhythm=("every day", "every other day", "every few days", "about once a week", "weeks apart"),
    repeats=("mostly the same things again", "some things again, some new", "nearly always something new"),
    named=(
        "{first}",
        "always {first}",
        "mostly {first}, also {second}",
        "{first} and {second}",
        "{first}, {second} and others",
    ),
    next=", next ",
    rarely="hardly ever ",
    money="most money ",
    change=("more {more}", "less {less}", "more {more} and less {less}"),
)
