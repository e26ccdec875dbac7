"""Errors as a command line says them."""

__all__ = ["error_text"]


def error_text(error: BaseException) -> str:
    """What went wrong; of an error that a loader process met, without its traceback."""
    text = str(error).strip()
    if "DataLoader worker process" in text.split("\n", 1)[0]:
        return text.splitlines()[-1].partition(": ")[2]
    return text
