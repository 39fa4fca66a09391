"""The words of the built-in articles: names, sentences with slots, and how findings are put. Data; sample.py speaks."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

Lexicon = Mapping[str, Sequence[str]]  # a word and what may stand for it, itself with words in braces


class OutcomeTerm(NamedTuple):
    """What is measured: a share of patients to whom an event happened or, without an event, a mean."""

    noun: str
    event: str = ""
    unit: str = "percentage points"
    scale: float = 1.0


class Goal(NamedTuple):
    """What a subject is hoped to do to an outcome; sign is the direction of the hope."""

    verb: str
    sign: int
    outcomes: tuple[OutcomeTerm, ...]
    subjects: tuple[Lexicon, ...]


class Finding(NamedTuple):
    """How a study ends: effect in percentage points, patients in a group; compare says why they go together."""

    decision: str
    effect: tuple[int, int]
    patients: tuple[int, int]
    words: Lexicon


# The words, set as text is set. A section is a row of slots, and one sentence of each slot is told; in one of the slots
# every sentence holds the name, be it within {subject}, {group}, {origin}, {allocation} or {result}.
# fmt: off
SYLLABLES = [consonant + vowel for consonant in "bdfjklmnrstvw" for vowel in "aeiou"]
ENDINGS = [head + tail for head in ("br", "cl", "dr", "fl", "k", "ph", "tr", "z") for tail in ("ax", "ex", "ond", "ul")]
NAMES = len(SYLLABLES) ** 3 * len(ENDINGS)
TOWN_HEADS = ("Harrow", "Elder", "Kirk", "Wester", "Thorn", "Brack", "Dun", "Fenn", "Hazel", "Lang", "Marl", "Raven")
TOWN_TAILS = ("mere", "bridge", "haven", "stead", "ford", "holm", "wick", "dale", "minster", "combe")
TOWNS = [head + tail for head in TOWN_HEADS for tail in TOWN_TAILS]
QUANTITIES = {
    "months": (3, 24), "weeks": (2, 9), "sites": (3, 19), "year": (1996, 2023), "age": (38, 61), "dose": (5, 160),
    "lost": (4, 40), "prior": (12, 95), "harm1": (11, 48), "harm2": (10, 45), "severe": (21, 66), "cost": (210, 980),
    "burden": (11, 44), "visits": (4, 14)}
SCENE: Lexicon = {
    "place": TOWNS, "town": TOWNS,
    "hospital": ("{town} General Hospital", "{town} University Hospital", "the {town} Clinic", "St Agnes in {town}"),
    "people": ("adults", "outpatients", "hospital patients", "office workers", "shift workers", "farm workers",
               "carers", "veterans", "teachers", "bus drivers", "former smokers", "city dwellers", "young parents"),
    "disease": ("asthma", "migraine", "diabetes", "knee osteoarthritis", "chronic kidney disease", "heart failure",
                "gout", "epilepsy", "eczema", "psoriasis", "Crohn's disease", "rheumatoid arthritis", "depression",
                "insomnia", "chronic low back pain", "hypertension", "glaucoma", "fibromyalgia",
                "coeliac disease", "Ménière's disease", "Sjögren's syndrome", "Behçet's disease"),
    "harm": ("headache", "nausea", "dizziness", "a dry mouth", "a skin rash", "tiredness", "trouble sleeping"),
    "answer": ("{claim} {figures}", "{claim} {figures}", "{claim} {figures} {outlook}")}
QUESTIONS = (
    "Does {subject} {verb} {outcome} in {people} with {disease}?",
    "Can {subject} {verb} {outcome} among {people} with {disease}?",
    "In {people} with {disease}, does {subject} {verb} {outcome}?",
    "{Outcome} in {people} with {disease}: does {subject} matter?",
    "Is there evidence that {subject} {verb}s {outcome} in {people} with {disease}?",
    "Over {months} months, does {subject} {verb} {outcome} in {disease}?")
OFFERS = (*QUESTIONS, "Should {people} with {disease} be offered {subject} to {verb} {outcome}?",
          "Is {subject} an effective way to {verb} {outcome} in {people} with {disease}?")
SIGNS = (*QUESTIONS, "Is {subject} an early sign of {outcome} in {people} with {disease}?",
         "Is {outcome} more common in {people} with {disease} who have {subject}?")
DRUG: Lexicon = {
    "question": OFFERS, "group": ("the {name} group",), "mesh": ("Drug Therapy", "Administration, Oral"),
    "subject": ("{name}", "{name}", "low-dose {name}", "{name} syrup", "slow-release {name}"),
    "origin": ("{Name} is a small molecule, first made in {place} in {year}, that slows the release of histamine.",
               "{Name} comes from a plant that healers near {place} have used for more than {prior} years.",
               "{Name} is a short peptide that was found by chance in {place} and calms overactive nerve cells.",
               "{Name} was developed for another disease, and doctors in {place} began to use it in {year}."),
    "regimen": ("{Name} was given at {dose} mg a day, in two parts.", "The dose of {name} was {dose} mg every evening.",
                "{Name} was started at a low dose and raised to {dose} mg within {weeks} weeks.")}
PROGRAMME: Lexicon = {
    "question": OFFERS, "group": ("the {NAME} group",), "mesh": ("Program Evaluation", "Delivery of Health Care"),
    "subject": ("the {NAME} programme", "the {NAME} care plan", "the {NAME} course", "the {NAME} telephone service"),
    "origin": ("{Subject} was set up in {place} in {year} and is run by nurses, with a doctor on call.",
               "{Subject} combines exercise, advice and a diary, and has spread from {place} to {sites} regions.",
               "{Subject} grew out of a self-help circle in {place} that met every week from {year} on."),
    "regimen": ("{Subject} offered each patient {visits} visits of up to {dose} minutes.",
                "{Subject} asked patients to come {visits} times and to keep a diary for {weeks} weeks.")}
MARKER: Lexicon = {
    "question": SIGNS, "group": ("the high-{name} group",), "other": ("the low-{name} group",),
    "mesh": ("Biomarkers", "Predictive Value of Tests", "Prognosis"),
    "subject": ("a raised {name} level", "a high {name} level", "a positive {name} test"),
    "origin": ("{Name} is a protein, first described in {place} in {year}, that leaks from inflamed vessels.",
               "{Name} is made in the liver and was named by a laboratory in {place}, which measures it in saliva.",
               "{Name} is a fragment of a hormone, and a kit from {place} has detected it since {year}."),
    "regimen": ("A {name} level above {dose} ng/mL was called high.", "The limit for {name} was set at {dose} µg/L.")}
CARE: tuple[Lexicon, ...] = (
    {**DRUG, "design": ("a double-blind randomised trial",), "other": ("the placebo group",),
     "allocation": ("A list kept at {hospital} decided who received {name} and who a matching placebo.",)},
    {**DRUG, "design": ("an open-label randomised trial",), "other": ("the standard-care group",),
     "allocation": ("Sealed envelopes decided who received {name} on top of standard care.",)},
    {**DRUG, "design": ("a matched cohort study",), "other": ("the untreated group",),
     "allocation": ("Patients who took {name} were compared with untreated patients of the same age and clinic.",)},
    {**PROGRAMME, "design": ("a cluster-randomised trial",), "other": ("the usual-care group",),
     "allocation": ("Whole clinics, not single patients, were drawn by lot for {NAME} or for usual care.",)},
    {**PROGRAMME, "design": ("a before-and-after study",), "other": ("the earlier group",),
     "allocation": ("Patients treated after {NAME} began were compared with those treated in the year before.",)})
PREDICTION: tuple[Lexicon, ...] = (
    {**MARKER, "design": ("a prospective cohort study",),
     "allocation": ("{Name} was measured once at the start, and doctors were not told the result.",)},
    {**MARKER, "design": ("a review of stored samples",),
     "allocation": ("{Name} was measured by technicians who did not know what had become of the patients.",)})
GAINS = (OutcomeTerm("remission", "were in remission"), OutcomeTerm("return to work", "returned to work"),
         OutcomeTerm("symptom relief", "reported relief of their symptoms"), OutcomeTerm("restful sleep", "slept well"),
         OutcomeTerm("daily exercise", "exercised every day"), OutcomeTerm("full recovery", "recovered fully"))
LOSSES = (OutcomeTerm("hospital readmission", "were readmitted"), OutcomeTerm("relapse", "had a relapse"),
          OutcomeTerm("chest infection", "had a chest infection"), OutcomeTerm("severe fatigue", "reported severe fatigue"),
          OutcomeTerm("emergency admission", "had an emergency admission"), OutcomeTerm("sick leave", "went on sick leave"))
RISING = (OutcomeTerm("the mean walking distance", unit="metres", scale=8), OutcomeTerm("the mean pain-free time", unit="days"),
          OutcomeTerm("the mean quality-of-life score", unit="points"), OutcomeTerm("the mean grip", unit="kg", scale=0.6))
FALLING = (OutcomeTerm("the mean hospital stay", unit="days", scale=0.2), OutcomeTerm("the mean pain score", unit="points"),
           OutcomeTerm("the mean time to recovery", unit="weeks", scale=0.3), OutcomeTerm("the mean sick leave", unit="days"),
           OutcomeTerm("the mean cost of care", unit="dollars a month", scale=9))
GOALS = (Goal("support", 1, GAINS, CARE), Goal("increase", 1, RISING, CARE), Goal("prevent", -1, LOSSES, CARE),
         Goal("reduce", -1, FALLING, CARE), Goal("predict", 1, LOSSES + GAINS, PREDICTION))
SHARES: Lexicon = {
    "result": ("In {group}, {a} of {n1} patients ({value}%) {event}, against {b} of {n2} ({reference}%) in {other}.",
               "Of {n1} patients in {group}, {a} {event} ({value}%); in {other} it was {b} of {n2} ({reference}%)."),
    "figures": ("After {months} months the share was {value}% in {group} and {reference}% in {other}.",
                "It was seen in {a} of {n1} patients against {b} of {n2}, a gap of {gap} percentage points.",
                "The shares, {value}% and {reference}%, lay {gap} percentage points apart.")}
MEANS: Lexicon = {
    "result": ("{Outcome} was {value} {unit} in {group} ({n1} patients) and {reference} {unit} in {other} ({n2}).",
               "For {outcome}, {n1} patients in {group} came to {value} {unit}, the {n2} in {other} to {reference}."),
    "figures": ("After {months} months it was {value} {unit} in {group} and {reference} {unit} in {other}.",
                "It came to {value} against {reference} {unit}, a gap of {gap}.",
                "The two groups, of {n1} and {n2} patients, lay {gap} {unit} apart.")}
YES = Finding("yes", (20, 28), (150, 400), {
    "verdict": ("which chance can hardly explain", "which is a clear effect", "which leaves little doubt"),
    "remark": ("The {sites} centres agreed closely.", "It was as clear in the {severe} patients with severe disease."),
    "claim": ("{Subject} {verb}s {outcome} in {people} with {disease}.", "In {disease}, {subject} {verb}s {outcome}.",
              "These data show that {subject} {verb}s {outcome} in {people} with {disease}."),
    "outlook": ("Wider use seems justified.", "Longer studies should show whether this lasts.")})
NO = Finding("no", (-2, 2), (150, 400), {
    "verdict": ("which is no real difference", "which is well within the play of chance", "which shows no effect"),
    "remark": ("The {severe} patients with severe disease fared no better.", "None of the {sites} centres stood out."),
    "claim": ("{Subject} does not {verb} {outcome} in {people} with {disease}.",
              "We found no sign that {subject} {verb}s {outcome} in {people} with {disease}.",
              "In {disease}, {subject} made no difference to {outcome}."),
    "outlook": ("Its use for this purpose cannot be advised.", "Other approaches deserve to be studied.")})
MAYBE = Finding("maybe", (4, 6), (120, 220), {
    "verdict": ("which is a hint at most", "which may be an effect or chance", "which is too unsure to decide"),
    "remark": ("It seemed stronger in the {severe} patients with severe disease.", "The {sites} centres disagreed."),
    "claim": ("{Subject} may {verb} {outcome} in {people} with {disease}, but this study cannot settle it.",
              "Whether {subject} {verb}s {outcome} in {people} with {disease} remains open.",
              "In some patients with {disease}, {subject} might {verb} {outcome}."),
    "outlook": ("A larger study is needed.", "Patients should be told how uncertain this is.")})
FINDINGS = (YES,) * 55 + (NO,) * 34 + (MAYBE,) * 11  # of 100, as in PubMedQA's labelled part
BACKGROUND = (
    ("{origin}",),
    ("{Outcome} matters to {people} with {disease}, yet few studies have followed it beyond {weeks} weeks.",
     "About {burden}% of {people} with {disease} seen at {hospital} are not content with their present care.",
     "Care for {disease} differs widely between {town} and {place}, and {people} are rarely studied."),
    ("A pilot study in {prior} patients gave mixed signals.", "Doctors in {town} disagree on whether it is of use.",
     "Whether {subject} would {verb} {outcome} was unknown, as the only report covered {prior} patients."))
AIM = (
    ("To find out whether {subject} can {verb} {outcome} in {people} with {disease}, in comparison with {other}.",
     "We asked whether {subject} would {verb} {outcome} in {people} with {disease} who live in or near {town}.",
     "The aim of this study was to test if {subject} {verb}s {outcome} in {people} with {disease}."),
    ("A second aim was to count cases of {harm} and the reasons for leaving the study within {months} months.",
     "We also wished to learn whether the answer holds for patients older than {age} years and for severe disease.",
     "The plan was agreed with {visits} patients from {place} before the first person was enrolled in {year}."))
METHODS = (
    ("This was {design} of {people} with {disease}, led by {hospital} with {sites} centres.",
     "{Hospital} and {sites} smaller clinics near {place} enrolled {people} with {disease} in {design}."),
    ("{allocation}",), ("{regimen}",),
    ("The main endpoint was {outcome} at {months} months.", "Visits were held every {weeks} weeks for {months} months.",
     "Raters who did not know the groups judged {outcome} after {months} months."))
PATIENTS = (
    ("The study of {subject} took place at {hospital} and in {sites} clinics around {place}.",
     "{People} with {disease} were invited to the study of {subject} by letter from {hospital}."),
    ("Apart from {lost} who left early, {n} patients took part: {n1} in {group} and {n2} in {other}.",
     "In all, {n} stayed to the end, {n1} in {group} and {n2} in {other}; {lost} more had given their consent."),
    ("Their mean age was {age} years.", "At a mean age of {age} years, they had been ill for {weeks} years."))
RESULTS = (
    ("After {months} months, the data of {n} patients were complete, while {lost} others had left the study.",
     "As {lost} patients left early, {n} were followed for the full {months} months."),
    ("{result}",),
    ("The difference was {difference} {unit} (95% confidence interval {low} to {high}), {verdict}.",
     "With a 95% confidence interval from {low} to {high}, the difference was {difference} {unit}, {verdict}."),
    ("{remark}", "{Harm} was noted in {harm1} and {harm2} patients."))
SAFETY = (
    ("{Harm} was reported by {harm1} patients in {group} and {harm2} in {other}, mostly in the first {weeks} weeks.",
     "In {group} {harm1} patients spoke of {harm}, in {other} {harm2}, and none of them needed a stay in hospital."),
    ("Care cost {cost} dollars a patient in {place}, much as expected when the study was planned.",
     "Asked at the end, about {burden}% of all patients found that the visits were too frequent.",
     "An independent board at {hospital} saw no reason to stop early, and no death was linked to the study."))
SECTIONS = {
    "BACKGROUND": BACKGROUND, "INTRODUCTION": BACKGROUND, "CONTEXT": BACKGROUND, "OBJECTIVE": AIM, "AIM": AIM,
    "METHODS": METHODS, "STUDY DESIGN": METHODS, "PATIENTS": PATIENTS, "PARTICIPANTS": PATIENTS,
    "RESULTS": RESULTS, "FINDINGS": RESULTS, "SAFETY": SAFETY, "SECONDARY RESULTS": SAFETY}
LAYOUTS = [layout.split(" | ") for layout in (
    "METHODS | RESULTS", "BACKGROUND | RESULTS", "OBJECTIVE | METHODS | RESULTS", "BACKGROUND | METHODS | RESULTS",
    "CONTEXT | STUDY DESIGN | FINDINGS", "AIM | PATIENTS | RESULTS | SAFETY", "BACKGROUND | AIM | METHODS | RESULTS",
    "INTRODUCTION | METHODS | FINDINGS | SECONDARY RESULTS", "OBJECTIVE | STUDY DESIGN | PARTICIPANTS | RESULTS",
    "BACKGROUND | AIM | METHODS | RESULTS | SAFETY", "CONTEXT | OBJECTIVE | STUDY DESIGN | PARTICIPANTS | RESULTS")]
TOPICS = (["Humans", "Adult", "Treatment Outcome"], ["Humans", "Middle Aged", "Follow-Up Studies", "Quality of Life"],
          ["Humans", "Risk Factors", "Time Factors", "Patient Compliance"], ["Humans", "Surveys and Questionnaires"],
          ["Humans", "Male", "Female", "Adult", "Cost-Benefit Analysis"], ["Humans", "Age Factors", "Comorbidity"])
