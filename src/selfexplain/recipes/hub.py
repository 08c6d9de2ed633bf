"""Upload to the Hugging Face hub."""

from pathlib import Path

from selfexplain.errors import InputError, first_line


def push_folder(folder: Path, name: str, *, private: bool = False) -> str:
    """Upload a folder to a model repository, which is made if there is none; return its address.

    Raises:
        InputError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name, folder_path=folder, commit_message="Export of selfexplain"
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise InputError(
            f"{folder} is written, but could not be uploaded to {name} ({first_line(error)}); log "
            "in with: hf auth login, and pass --push again"
        ) from error
    return str(commit.repo_url)
