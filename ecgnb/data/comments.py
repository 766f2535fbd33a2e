"""What the comments of WFDB headers say of a patient."""

from __future__ import annotations

import re
from typing import Any

from ecgnb.data.records import Header

# "Age: 60" in the PhysioNet Challenges, "age: 81" in PTB, "<age>: 65 <sex>: F" in INCART.
_AGE = re.compile(r"(?:^|[\s,<])age>?:\s*(\d+(?:\.\d+)?)", re.IGNORECASE)
_SEX = re.compile(r"(?:^|[\s,<])sex>?:\s*([mf])", re.IGNORECASE)
_PATIENT = re.compile(r"^patient:?\s+(\S+)$", re.IGNORECASE)  # "Patient: p00012", "patient 12"
_REASON = "Reason for admission"  # of PTB


def facts(header: Header) -> dict[str, Any]:
    """Read age, sex, codes and, where it is given, the patient from the comments of a header."""
    age = _first(_AGE, header)
    values: dict[str, Any] = {
        "age": float(age) if age else float("nan"),
        "sex": {"m": "male", "f": "female"}.get(_first(_SEX, header).lower(), ""),
        "codes": " ".join(dict.fromkeys(_codes(header))),
    }
    if patient := _first(_PATIENT, header):
        values["patient"] = patient
    return values


def _codes(header: Header) -> list[str]:
    if reason := header.comment(_REASON):
        return [re.sub(r"[^a-z0-9]+", "-", reason.lower()).strip("-")]
    return header.comment("Dx").replace(",", " ").split()


def _first(pattern: re.Pattern[str], header: Header) -> str:
    found = (pattern.search(line) for line in header.comments)
    return next((match[1] for match in found if match), "")
