"""Data sets of the Hugging Face hub, or local folders in the same layout, through the `datasets` package.

`hub:NAME[/CONFIG][:SPLIT]`:

- NAME is an existing local folder, or one word, or owner/name.
- Three parts are owner/name/CONFIG. Two parts are tried as owner/name first and, if no such data set can be had,
  as NAME/CONFIG. A local folder with a README.md that declares configurations may be followed by CONFIG.
- SPLIT is what follows the last colon, if it holds no slash; slices such as `train[:100]` work.
  Without it `train` is read, or the only split there is."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import DatasetError

PREFIX = "hub:"
_FORM = re.compile(r"hub:(.*?)(?::([^:/\[]*(?:\[[^\]/]*\])?))?")


@dataclass(frozen=True)
class HubTable:
    """One split: its column names in order, and the class names of each column of classes or of lists of classes."""

    names: tuple[str, ...]
    class_names: Mapping[str, tuple[str, ...]]
    dataset: Any

    def columns(self, names: Sequence[str], limit: int | None) -> dict[str, list[Any]]:
        """Values of the named columns in the first `limit` rows."""
        count = len(self.dataset) if limit is None else min(limit, len(self.dataset))
        rows: dict[str, list[Any]] = self.dataset.select(range(count)).select_columns(list(names))[:]
        return rows


def candidates(reference: str) -> tuple[list[tuple[str, str | None]], str | None]:
    """What `hub:...` may mean: (name, config) in the order to try them, and the split.

    Raises `DatasetError` if it has another form."""
    form = _FORM.fullmatch(reference)
    body, split = form.groups() if form else ("", None)
    if split == "" or not body:
        raise DatasetError(f"{reference}: not of the form hub:NAME[/CONFIG][:SPLIT], for example hub:glue/sst2:validation")
    if Path(body).is_dir():
        return [(body, None)], split
    parent, _, last = body.rpartition("/")
    card = Path(parent) / "README.md"
    if parent and card.is_file() and "config_name:" in card.read_text(encoding="utf-8", errors="replace"):
        return [(parent, last)], split
    parts = body.split("/")
    if len(parts) > 3 or not all(parts) or parts[0] in (".", "..", "~"):
        raise DatasetError(f"{reference}: neither an existing folder nor hub:NAME[/CONFIG][:SPLIT]; check the path or the name")
    whole, with_config = [(body, None)] if len(parts) < 3 else [], [(parent, last)] if len(parts) > 1 else []
    return [*whole, *with_config], split


def open_hub(reference: str) -> HubTable:
    """Download (or take from the cache) and open one split.

    Raises `DatasetError` if there is no network, no such data set, configuration or split, or its files cannot be parsed."""
    from edgekit.system.network import hub_in_reach

    tries, split = candidates(reference)
    local = len(tries) == 1 and Path(tries[0][0]).is_dir()
    with contextlib.nullcontext() if local else hub_in_reach():
        dataset = _pick_split(_load(reference, tries, split), reference)
    if len(dataset) == 0:
        raise DatasetError(f"{reference}: holds no rows; choose another split")
    return HubTable(tuple(dataset.features), class_names(dataset), dataset)


def class_names(dataset: Any) -> dict[str, tuple[str, ...]]:
    """Names of the numbers in each column of a `datasets.Dataset` that holds ClassLabels, or lists of them as tags are."""
    inner = {name: getattr(feature, "feature", feature) for name, feature in dataset.features.items()}
    return {name: tuple(feature.names) for name, feature in inner.items() if type(feature).__name__ == "ClassLabel"}


def _load(reference: str, tries: Sequence[tuple[str, str | None]], split: str | None) -> Any:
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity_error()
    missing: Exception | None = None
    for name, config in tries:
        try:
            return datasets.load_dataset(str(Path(name).absolute()) if Path(name).is_dir() else name, config, split=split)
        except (ConnectionError, DatasetNotFoundError) as error:
            missing = error
            if isinstance(error, ConnectionError) and not datasets.config.HF_HUB_OFFLINE:
                break
        except Exception as error:
            # The package raises bare exceptions of many kinds for a wrong configuration, split or file.
            cause = " ".join(str(error.__cause__ or error).split())[:300] or type(error).__name__
            raise DatasetError(f"{reference}: {cause}; check the configuration, the split and the files", str(error)) from error
    cause = "no such data set on the hub; check the name"
    if isinstance(missing, ConnectionError):
        cause = "the hub cannot be reached and the data set is not cached; check the network"
    raise DatasetError(f"{reference}: {cause} or give a local file", str(missing)) from missing


def _pick_split(loaded: Any, reference: str) -> Any:
    if not isinstance(loaded, Mapping):
        return loaded
    if "train" in loaded:
        return loaded["train"]
    if len(loaded) == 1:
        return next(iter(loaded.values()))
    raise DatasetError(f"{reference}: has no train split; add one of :{', :'.join(loaded)}")
