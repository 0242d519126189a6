"""`python -m cluster.reproduce stock`: what is asked, what would be otherwise, the run, its table."""

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from cluster.console import RunConsole, clock, errors_table, print_plan
from cluster.dataset import load_manifest
from cluster.evaluations import ERRORS, keep
from cluster.network import keep_facts
from cluster.run_folder import RunFolder
from cluster.run_state import STOCK
from cluster.signals import Interrupted, StopSignals
from configs.errors import UserError
from configs.loader import load
from configs.schema import Config, StageSchedule
from workers.json_lines import append
from workers.reports import ColumnReport, Ended, EndReport, Report, StartReport


def run_stock(
    config_path: str, settings: Iterable[str], *, threads: int, workers: int, layout: str, plan_only: bool = False
) -> int:
    """Train a config's recipe in stock PyTorch, in the run folder NAME_stock; returns 0.

    threads: of the computation. workers: of the DataLoader. layout: channels_last or contiguous, of maps in memory.
    Raises UserError for a config that it cannot follow, RunFailed if training diverges.
    """
    config = load(config_path, settings)
    config = replace(config, name=f"{config.name}_stock")
    _check(config)
    run = RunFolder(config)
    run.check_same_experiment()
    from cluster.dataset import verify
    from cluster.reproduce.stock.network import left_out

    print_plan([("run", str(run.path)), ("epochs", f"{config.train.epochs:g}"), ("data", config.data.path)])
    differences = [*left_out(config.network), *_otherwise(config)]
    print_plan([("otherwise", text) for text in differences])
    if plan_only:
        return 0
    result = run.result()
    if result is None or result.get("epochs", 0) < round(config.train.epochs or 0):
        verify(config)
        with StopSignals() as signals:
            result = _train(run, config, threads, workers, layout, differences, signals)
        run.write_result(result)
        about = {"step": result["step"], "data": config.data.path, "dataset": load_manifest(config).fingerprint}
        keep(run.path, {**about, "views": 10, **{key: result["ten_views"][key] for key in ERRORS}})
    else:
        print("this run is complete; remove its folder to begin it again")
    tell(run, result)
    return 0


def _train(
    run: RunFolder,
    config: Config,
    threads: int,
    workers: int,
    layout: str,
    differences: list[str],
    signals: StopSignals,
) -> dict[str, Any]:
    import torch

    from cluster.reproduce.stock.training import Machine, Training

    device = "cuda" if config.cluster.device != "cpu" and torch.cuda.is_available() else "cpu"
    machine = Machine(threads=threads, workers=workers, device=device, channels_last=layout == "channels_last")
    run.open()
    keep_facts(run.path, config)
    training = Training(config, run, machine)
    started, at = time.monotonic(), 0
    with RunConsole(training.whole_steps) as console:

        def report(one: Report) -> None:
            nonlocal at
            at = one.step
            if isinstance(one, ColumnReport):
                one = replace(one, seconds=time.monotonic() - started)
            append(run.log, replace(one, time=time.time()).as_json())
            console.report(one)

        told = f"from epoch {training.epochs_done}, {training.steps_per_epoch} steps each"
        console.message(f"stock PyTorch on {device}, {threads} threads, {workers} loading workers, {told}")

        def check() -> None:
            # Not from the handler: raised while a DataLoader is taken down, an exception is lost.
            if signals.requested:
                raise Interrupted(signals.requested)

        report(
            StartReport(
                step=training.steps_done,
                whole_steps=training.whole_steps,
                batch_size=config.train.batch_size,
                classes=config.network.classes,
                ranks=[STOCK],
                differences=differences,
            )
        )
        signals.gentle = True
        try:
            result = training.to_the_end(report, check)
        except BaseException as error:  # the log says how it ended; it is raised on
            ended: Ended = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
            report(EndReport(step=at, ended=ended, why=str(error) or "stopped at once"))
            raise
        report(EndReport(step=training.steps_done, ended="finished"))
    return {
        **result,
        "epochs": training.epochs_done,
        "train": console.last_train and console.last_train.as_json(),
        "machines": training.machines,
        "torch": torch.__version__,
        "differences": differences,
    }


def tell(run: RunFolder, result: dict[str, Any]) -> None:
    errors_table([("validation, centre view", result["validation"]), ("validation, ten views", result["ten_views"])])
    print_plan(
        [
            ("epochs", f"{result['epochs']} in {clock(result['seconds'])}"),
            ("speed", f"{result['images_per_second']:,.1f} images/s in training"),
            *(("with", ", ".join(f"{name}={value}" for name, value in one.items())) for one in result["machines"]),
            ("log", str(run.log)),
            ("result", str(run.path / "result.json")),
        ]
    )


def _check(config: Config) -> None:
    problems = []
    epochs = config.train.epochs
    if epochs is None or epochs != round(epochs):
        problems.append("train.epochs must be a whole number of epochs: give train.epochs=20 and train.steps=null")
    if not isinstance(config.schedule, StageSchedule):
        problems.append("schedule.kind must be stages")
    if config.train.init_from is not None:
        problems.append("train.init_from must be null")
    if config.compute.precision != "fp32":
        problems.append("compute.precision must be fp32")
    if problems:
        raise UserError("the stock run cannot follow this config: " + "; ".join(problems))


def _otherwise(config: Config) -> list[str]:
    found = [
        "torch.optim.SGD scales by the rate when it steps, not when it gathers: otherwise after each drop of the rate"
    ]
    if config.augment.crop_shared_by > 1:
        found.append("each image has a crop of its own (augment.crop_shared_by is 1)")
    if config.train.order == "same_every_epoch":
        found.append("the order is new in every epoch")
    found.append("an epoch ends with a smaller batch, where ours goes on into the next epoch")
    return found
