"""What a user got wrong, told apart from what we got wrong.

The command line prints these as one line and exits with 2; everything else is a bug or the machine's fault.
"""

from __future__ import annotations

import sys


class UserError(ValueError):
    """Something only the user can mend; the message is one line that names the file, field or flag and the remedy."""


def storage_errors() -> tuple[type[Exception], ...]:
    """What reading or writing a URI raises when the place, not the program, is at fault.

    S3 clients raise errors of their own beside `OSError`; they are known once such a client has been imported.
    """
    botocore = sys.modules.get("botocore.exceptions")
    return (OSError, *((botocore.BotoCoreError, botocore.ClientError) if botocore else ()))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type's name where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
