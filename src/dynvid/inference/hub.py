"""Models handed on through the Hugging Face hub, by the names that its users know."""

from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelHubMixin

from dynvid.folder.hub import fetch, hub_errors


class Shared(ModelHubMixin):
    """What the hub's mixin gives, by our own folder: nothing is taken from arguments of `__init__`, nor removed."""

    _hub_mixin_config: dict[str, Any] = {}  # ours is written by `save`

    def save_pretrained(  # the mixin would remove a config.json that it finds
        self, save_directory: str | Path, *, repo_id: str | None = None, push_to_hub: bool = False, **options: Any
    ) -> str | None:
        """As `save`; with `push_to_hub` also as `push_to_hub`, to `repo_id` or a name like that of the folder."""
        self.save(save_directory)  # type: ignore[attr-defined]  # a Recognizer's; likewise `load` below
        return self.push_to_hub(repo_id or Path(save_directory).name, **options) if push_to_hub else None

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the model's folder.

        Args:
            repo_id: `user/name`.
            options: `private`, `token`, `branch`, `create_pr`, `commit_message` and more, as
                `huggingface_hub.ModelHubMixin.push_to_hub` takes them.

        Returns:
            The address of the commit.

        Raises:
            ValueError: The hub cannot be reached, or does not take it.
        """
        with hub_errors(repo_id):
            return super().push_to_hub(repo_id, **options)

    @classmethod
    def from_pretrained(  # the mixin would hand parts of config.json to `__init__`
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **options: Any,
    ) -> Self:
        """Load a folder, or a model of the hub, as `load` does.

        Args:
            pretrained_model_name_or_path: The folder, or `user/name`.
            force_download: Fetch it anew.
            token: Of the hub.
            cache_dir: Where files are kept.
            local_files_only: Ask nobody.
            revision: A branch, tag or commit.
            options: As `load` takes them.

        Raises:
            FileNotFoundError: There is no such model.
            ValueError: The hub cannot be reached, or the model cannot be read.
        """
        place = Path(pretrained_model_name_or_path)
        if not place.is_dir():
            place = fetch(
                str(pretrained_model_name_or_path),
                str(options.get("runtime", "torch")),
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
            )
        loaded: Self = cls.load(place, **options)  # type: ignore[attr-defined]
        return loaded
