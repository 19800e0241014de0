"""Files in model repositories of the Hugging Face hub: hf://ORG/NAME[@REVISION][/FILE]. Needs the extra [hub].

HF_ENDPOINT, set before the library is imported, names another hub. The token is that of `hf auth login` or HF_TOKEN; no message
shows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fastrealign.core.errors import FastRealignError, InputError, shortage
from fastrealign.core.optional import optional
from fastrealign.core.text import one_line

SCHEME = "hf://"
# What `push_to_hub` saves, and what hf://ORG/NAME alone means.
FILE = "fastrealign.safetensors"
_NAME = r"[A-Za-z0-9][\w.-]*"
_REPOSITORY = re.compile(rf"{_NAME}/{_NAME}", re.ASCII)
_URL = re.compile(rf"hf://({_NAME}/{_NAME})(?:@([^/\s]+))?(?:/([^\s@]*[^\s@/])?)?", re.ASCII)
# Of other kinds of repositories, which fsspec opens.
_OTHERS = ("hf://datasets/", "hf://spaces/", "hf://buckets/")


def is_on_hub(path: object) -> bool:
    """Whether the path names a model repository."""
    return isinstance(path, str) and path.startswith(SCHEME) and not path.startswith(_OTHERS)


def hub_file(url: str) -> Path:
    """Download a file, or find it in the cache of the hub's library.

    Parameters
    ----------
    url : str
        hf://ORG/NAME, hf://ORG/NAME@REVISION, hf://ORG/NAME@REVISION/FILE; without FILE, what `push_to_hub` saved. A revision
        is a branch, a tag or a commit; write a / in it as %2F.

    Raises
    ------
    InputError
        For another form, and where there is no such repository, revision or file, or no access to it.
    FastRealignError
        Where the hub cannot be reached.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise InputError(f"{url}: expected hf://ORG/NAME, hf://ORG/NAME@REVISION or hf://ORG/NAME@REVISION/FILE")
    repository, revision, name = found.groups()
    hub = optional("huggingface_hub", "hub", url)
    with _explained(url):
        revision = None if revision is None else unquote(revision)
        return Path(hub.hf_hub_download(repository, name or FILE, revision=revision))


def upload(folder: Path, repository: str, message: str, token: str | None, private: bool | None) -> str:
    """Add the files of a folder to a repository, in one commit; the repository is made if there is none.

    Returns
    -------
    str
        The URL of the commit's repository.

    Raises
    ------
    InputError
        For a name that is not ORG/NAME, without a token, or without the right to write.
    FastRealignError
        Where the hub cannot be reached.
    """
    if not isinstance(repository, str) or _REPOSITORY.fullmatch(repository) is None:
        raise InputError(f"{repository!r} is no name of a repository; expected 'ORG/NAME'")
    hub = optional("huggingface_hub", "hub", "push_to_hub")
    token = hub.get_token() if token is None else token
    if not token:
        raise InputError(f"{SCHEME}{repository}: there is no token to write with; run hf auth login, or set HF_TOKEN")
    if re.fullmatch(r"[!-~]+", token) is None:
        raise InputError(f"{SCHEME}{repository}: the token holds a character that no token has; copy it again")
    with _explained(f"{SCHEME}{repository}"):
        api = hub.HfApi(token=token)
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    return str(url)


@contextmanager
def _silent(utils: Any) -> Iterator[None]:
    """Without the library's own lines on stderr: bars, and a note at each of its tries."""
    import logging

    logger, bars = logging.getLogger("huggingface_hub"), not utils.are_progress_bars_disabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    if bars:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            utils.enable_progress_bars()


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Around requests: what the library raises as one line, which begins with `name`."""
    errors = optional("huggingface_hub.errors", "hub", name)
    optional("huggingface_hub.hf_api", "hub", name)  # its import sets the level of its messages
    try:
        with _silent(optional("huggingface_hub.utils", "hub", name)):
            yield
    except errors.GatedRepoError:
        raise InputError(f"{name}: access is granted on request; ask for it on the repository's page") from None
    except errors.RepositoryNotFoundError:
        raise InputError(f"{name}: no such repository, or no access to it with this token (HF_TOKEN)") from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{name}: the repository has no such revision") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise FastRealignError(f"{name}: the hub cannot be reached, and the file is not in the cache") from None
    except errors.EntryNotFoundError:
        raise InputError(f"{name}: the repository has no such file; without a name, {FILE} is read") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise InputError(f"{name}: the hub refuses it to this token (HTTP {status}); give one that may") from None
        raise FastRealignError(f"{name}: the hub answered HTTP {status}; try again later") from None
    except errors.HFValidationError as error:
        raise InputError(f"{name}: {one_line(error)}") from None
    except (FastRealignError, KeyboardInterrupt):
        raise
    except Exception as error:  # of its HTTP client, which has changed with the versions
        if (short := shortage(error)) is not None:
            raise FastRealignError(f"{name}: {short}") from None
        # Without its message, which may show the header that holds the token.
        raise FastRealignError(f"{name}: the request to the hub failed ({type(error).__name__})") from None
