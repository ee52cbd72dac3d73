"""Find a checkpoint, read what its config.json says, and carry its tokenizer along; `weights` loads it as a model."""

import importlib.util
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgekit.data import checkpoint_tokenizer
from edgekit.data.text import gives_segments, mask_token, standalone, token_specs
from edgekit.errors import CheckpointError, ConfigError, InputError, OutputError, thrown_as
from edgekit.models import positions, refusals, sentence_head
from edgekit.models.sentence_head import SentenceHead
from edgekit.spec import TensorSpec, path_of
from edgekit.system.serial import read_json
from edgekit.tasks import table as tasks
from edgekit.tasks.base import Task
from edgekit.tasks.classification import MOST_CLASSES
from edgekit.tasks.embeddings import SENTENCE_SIMILARITY
from edgekit.tasks.fill_mask import FILL_MASK

PACKAGE = "package:"
SAFE, PICKLED = "model*.safetensors", "pytorch_model*.bin"
_HUB_FILES = ("*.json", "*.txt", "*.model", "README.md", SAFE)
_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "spm.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "vocab.json",
)
_BESIDE_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
_MOST_LAYERS = 10**4
# To which zeros for segments are not the same as none.
_COUNTS_SEGMENTS = ("ctrl", "flaubert", "funnel", "gpt2", "openai-gpt", "xlm", "xlnet")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def resolve(reference: str) -> Path:
    """The folder of a checkpoint: a path, package:NAME or a hub id, which is downloaded if it is not in the cache.

    package:NAME is the folder inside the installed package NAME that holds a model's config.json. Raises `CheckpointError`."""
    if reference.startswith(PACKAGE):
        return _package_folder(reference.removeprefix(PACKAGE))
    path = path_of(reference)
    check_name(path)
    if path.is_dir():
        return path
    if path.exists():
        refusals.refuse_file(path)
        raise CheckpointError(f"{reference}: is a file, not a checkpoint; give the folder that holds config.json and the weights")
    if not _HUB_ID.fullmatch(reference) or reference.startswith(".") or Path(reference).parts[0] == ".." or _below_a_folder(path):
        raise CheckpointError(f"{reference}: no such folder; check the path, or give a hub id or package:NAME")
    return _hub_folder(reference)


def _below_a_folder(path: Path) -> bool:
    return len(path.parts) > 1 and Path(path.parts[0]).is_dir()


def check_name(path: Path) -> None:
    """Raise `InputError` for a name that frameworks do not read."""
    try:
        str(path.resolve()).encode()
    except UnicodeEncodeError:
        raise InputError(f"{path}: its name is not UTF-8, which frameworks do not read; rename it") from None


def _package_folder(name: str) -> Path:
    module = re.sub(r"[-.]+", "_", name)
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    roots = spec.submodule_search_locations if spec is not None else None
    if not roots:
        raise CheckpointError(f"{PACKAGE}{name}: no such package is installed; install it with pip or give a folder or a hub id")
    folders = sorted({config.parent for root in roots for config in Path(root).rglob("config.json") if _is_model_config(config)})
    if not folders:
        raise CheckpointError(f"{PACKAGE}{name}: holds no config.json of a model; give another package, a folder or a hub id")
    if len(folders) > 1:
        listed = ", ".join(str(folder) for folder in folders[:4])
        raise CheckpointError(f"{PACKAGE}{name}: holds {len(folders)} models; give the folder of one: {listed}")
    return folders[0]


def _is_model_config(file: Path) -> bool:
    try:
        found = read_json(file)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "model_type" in found


def _hub_folder(name: str) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    from edgekit.system.network import hub_in_reach

    try:
        with hub_in_reach():
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=list(_HUB_FILES), ignore_patterns=["*/*"]))
            if not any(folder.glob(SAFE)):
                patterns = [*_HUB_FILES, PICKLED]
                folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"]))
            if (folder / sentence_head.MODULES).is_file() and (modules := [*sentence_head.files(folder)]):
                patterns = [f"{module}/{file}" for module in modules for file in ("*.json", SAFE, PICKLED)]
                folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{name}: the hub wants you to accept its terms; do so on its page and log in with `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(f"{name}: neither a folder here nor a model on the hub; check the spelling") from None
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{name}: no folder of that name, and the hub cannot be reached ({type(error).__name__}); "
            "check the path or the network, or give a folder or package:NAME",
            str(error),
        ) from None
    return folder


def read_config(path: Path) -> dict[str, Any]:
    """The checkpoint's config.json. Raises `CheckpointError` if it is missing, not JSON or names no model type."""
    file = path / "config.json"
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder; check the path")
    refusals.refuse_folder(path)
    if not file.is_file():
        raise CheckpointError(f"{path}: holds no config.json; give a folder that save_pretrained wrote")
    try:
        found = read_json(file)
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{file}: not UTF-8 at byte offset {error.start}; save the model again with save_pretrained"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: not readable as JSON ({error}); save the model again with save_pretrained") from None
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        raise CheckpointError(f"{file}: names no model_type; give a folder that save_pretrained wrote for a transformers model")
    for name, count in found.items():
        # Layers are made before their weights are looked for, one after the other.
        if "layer" in name and isinstance(count, int) and count > _MOST_LAYERS:
            raise CheckpointError(f"{file}: {name} is {count}, and no model has more than {_MOST_LAYERS}; mend it there")
    return found


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder, read once: what its config.json says, and what it is for.

    `task` is that of its head, or the one that was asked for. `sentence_head` is what makes a vector of a sentence, where that is
    the task."""

    path: Path
    config: Mapping[str, Any]
    task: Task
    sentence_head: SentenceHead | None = None

    @staticmethod
    def read(path: Path, task: str | None = None) -> "Checkpoint":
        """The checkpoint in a folder: for sentences where sentence-transformers saved it, else for what its head is for.

        One that names no architecture is taken for a text classifier's. Raises `CheckpointError`, and `ConfigError` for a task that
        is not known."""
        config = read_config(path)
        refusals.refuse(path, config, task)
        chosen = tasks.find(task) if task is not None else None
        head = sentence_head.read(path) if chosen in (None, SENTENCE_SIMILARITY) else None
        chosen = chosen or (SENTENCE_SIMILARITY if head is not None else tasks.of_heads(_heads(config)))
        if chosen is SENTENCE_SIMILARITY:
            head = head or SentenceHead()
        return Checkpoint(path, config, chosen or tasks.TASKS["text-classification"], head)

    @staticmethod
    def read_to_train(path: Path, task: str | None = None) -> "Checkpoint":
        """As `read`, but where no `task` is asked for an encoder, pretrained head or none, is the start of a text classifier."""
        checkpoint = Checkpoint.read(path, task)
        started = checkpoint.task.headless or checkpoint.task.self_supervised
        return Checkpoint.read(path, "text-classification") if task is None and started else checkpoint

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def model_type(self) -> str:
        return str(self.config["model_type"])

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes in the order of their numbers. Raises `CheckpointError`."""
        names = self.config.get("id2label")
        if names is None:
            count = self.config.get("num_labels", self.config.get("_num_labels", 2))
            names = {
                number: f"LABEL_{number}" for number in range(count if isinstance(count, int) and count <= MOST_CLASSES else 0)
            }
        try:
            ids = {str(name): int(number) for number, name in sorted(names.items(), key=lambda item: int(item[0]))}
        except (AttributeError, TypeError, ValueError):
            names = ids = {}
        if not ids or len(ids) != len(names) or list(ids.values()) != list(range(len(ids))):
            raise CheckpointError(
                f"{self.path / 'config.json'}: id2label must name the classes 0, 1, 2, … each differently; mend it there"
            )
        return tuple(ids)

    @property
    def label_ids(self) -> dict[str, int]:
        """Class name to class number. Raises `CheckpointError`."""
        return {name: number for number, name in enumerate(self.labels)}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the task reads its outputs with."""
        with thrown_as(CheckpointError, f"{self.path / 'config.json'}: cannot be read for {self.task.name} ({{}}); mend it there"):
            return self.task.settings(self.described, self.labels)

    @property
    def described(self) -> Mapping[str, Any]:
        """What its task makes its settings of: config.json, of a sentence's vector how it is made, and what masks a token."""
        if self.task == FILL_MASK:
            token, number = mask_token(self.tokenizer)
            return {**self.config, "mask_token": token, "mask_token_id": number}
        return {**self.config, **(self.sentence_head.settings if self.sentence_head is not None else {})}

    @property
    def vocabulary(self) -> int | None:
        """How many token ids it knows, where config.json says."""
        found = self.config.get("vocab_size")
        return found if isinstance(found, int) else None

    @property
    def longest(self) -> int | None:
        """How many tokens it takes, as far as config.json says, and of a sentence as sentence-transformers cuts it."""
        most = self.sentence_head.max_length if self.sentence_head is not None else None
        return min((count for count in (positions.longest(self.config), most) if count is not None), default=None)

    def inputs(self, max_length: int, *, pairs: bool) -> tuple[TensorSpec, ...]:
        """What its .tflite is fed: segments only where rows are pairs and the model tells two texts apart by them, or where they
        change what it says of a single text."""
        kinds = self.config.get("type_vocab_size")
        segments = pairs and isinstance(kinds, int) and kinds > 1
        if self.model_type in _COUNTS_SEGMENTS:
            segments = gives_segments(self.tokenizer)
        return token_specs(max_length, segments=segments)

    def check_length(self, max_length: int) -> None:
        """Raise `ConfigError` if the model has fewer positions than `max_length` tokens, as far as config.json says."""
        if self.longest is not None and max_length > self.longest:
            raise ConfigError(
                f"max_length is {max_length} but {self.path.name} takes {self.longest} tokens; "
                f"give --max-length {self.longest} or less"
            )

    @property
    def tokenizer(self) -> Path:
        """The folder with its tokenizer. Raises `CheckpointError` if it has none."""
        return tokenizer_folder(self.path)

    @property
    def has_head(self) -> bool:
        """Whether it has a head for its task."""
        return self.task.headless or tasks.of_heads(_heads(self.config)) == self.task

    def refuse_other_head(self) -> None:
        """Raise `CheckpointError` if its head is trained for another task: the tensors' names alone prove nothing."""
        if self.task.headless:
            return
        if others := [name for name in _heads(self.config) if "For" in name and not name.endswith(self.task.heads or ("",))]:
            served = tasks.of_heads(others)
            serves = f"whose task is {served.name}; leave --task out, or" if served else "which no task of edgekit's reads;"
            raise CheckpointError(
                f"{self.path}: task {self.task.name}: its head is a {others[0]} (architectures in config.json), "
                f"{serves} run edgekit finetune --task {self.task.name} on it first"
            )


def _heads(config: Mapping[str, Any]) -> list[str]:
    named = config.get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def tokenizer_folder(path: Path) -> Path:
    """The folder with the checkpoint's tokenizer, which is the checkpoint's. Raises `CheckpointError` if it has none."""
    if not any((path / name).is_file() for name in _TOKENIZER_FILES):
        raise CheckpointError(f"{path}: holds no tokenizer (tokenizer.json or vocab.txt); save one there with save_pretrained")
    return path


def tokenizer_files(path: Path) -> list[Path]:
    """All that the tokenizer in a folder consists of."""
    return [path / name for name in (*_TOKENIZER_FILES, *_BESIDE_TOKENIZER) if (path / name).is_file()]


def copy_tokenizer(folder: Path, target: Path) -> None:
    """As it is, into the folder of another checkpoint that is not published yet."""
    for file in tokenizer_files(folder):
        shutil.copyfile(file, target / file.name)


def standalone_tokenizer(folder: Path) -> dict[str, bytes]:
    """The files of its tokenizer for a folder without a config.json: its tokenizer.json decides the ids by itself.

    A tokenizer of Python code has none."""
    files = {file.name: file.read_bytes() for file in tokenizer_files(folder)}
    with suppress(CheckpointError):
        files["tokenizer.json"] = standalone(folder)
    return files


def refuse_other_tokenizer(folder: Path, out: Path, *, overwrite: bool) -> None:
    """Raise `OutputError` if `out` holds another tokenizer than `folder` and it may not be replaced; asked before the work."""
    if overwrite or not tokenizer_files(out):
        return
    for name, content in standalone_tokenizer(folder).items():
        there = out / name
        if there.is_file() and there.read_bytes() != content:
            raise OutputError(f"{there}: is another model's tokenizer; add --overwrite to replace it or choose another --out")


def publish_tokenizer(folder: Path, out: Path) -> None:
    """The tokenizer travels with the files, so that they can be evaluated and used without the checkpoint."""
    # Every child that runs a model imports this module, and none publishes: the import would be a third of its start.
    from edgekit.system import artifacts

    for name, content in standalone_tokenizer(folder).items():
        with artifacts.staged(out / name, overwrite=True) as partial:
            partial.write_bytes(content)


def load_tokenizer(path: Path) -> Any:
    """The checkpoint's tokenizer as transformers has it. Raises `CheckpointError` if there is none or it does not load."""
    return checkpoint_tokenizer.load(tokenizer_folder(path))
