"""A prepared data set and a recipe in, a run folder with a trained network out. Paper: section 5."""

import math
import shlex
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from alexnet.data.augment import to_input
from alexnet.data.loader import Batch
from alexnet.data.prepared import PreparedData
from alexnet.errors import Interrupted, RequestError, WorkError
from alexnet.evaluation.evaluate import evaluate_split
from alexnet.model.device import arithmetic
from alexnet.model.weights import Trained, save_trained
from alexnet.runs.folder import RunFolder, utc_now
from alexnet.runs.machine import machine_facts, source_commit, versions
from alexnet.runs.recipe import Recipe
from alexnet.runs.recipe_file import recipe_differences
from alexnet.training.assembly import Tally, Training, assemble, loader_of
from alexnet.training.checkpoint import Position, checkpoint_path, load_checkpoint, save_checkpoint
from alexnet.training.interrupt import stop_on_signal
from alexnet.training.plan import Stretch
from alexnet.training.progress import TrainingProgress
from alexnet.training.schedule import Rates, ended, rates_at, stalls

LOG_EVERY_STEPS = 10
CHECKPOINT_EVERY_S = 300.0
# A loss this share of ln K and below is no longer that of a network that knows nothing.
LEFT_CHANCE = 0.95


def train(data_folder: Path, recipe: Recipe, run_folder: Path, start_from: Path | None = None) -> RunFolder:
    """Train the recipe's network on the prepared data set, or go on with an interrupted training.

    Args:
        data_folder: a prepared data set (`alexnet prepare`).
        recipe: every hyper-parameter.
        run_folder: a new folder, or that of an interrupted training of the same recipe on the same data.
        start_from: a run folder or weights file: layers of the same names start from its weights, all but the last.

    Returns:
        The run folder, finished: weights, log and the validation error of the last epoch inside.

    Raises:
        RequestError: recipe and data do not fit, or the run folder holds something else.
        WorkError: the loss is no longer finite; the weights that gave it are kept aside as
            weights-at-failure.safetensors.
        Interrupted: SIGINT or SIGTERM; the folder holds a checkpoint and usable weights.
    """
    data = PreparedData.open(data_folder)
    run = RunFolder(run_folder)
    # With a checkpoint the first weights are history, and the file they came from may be gone.
    fresh = not checkpoint_path(run.path).is_file()
    training = assemble(run, data, recipe, start_from if fresh else None)
    _create_or_continue(run, recipe, data, data_folder, start_from)
    _restore(training)
    parameters = sum(parameter.numel() for parameter in training.network.parameters())
    run.update_facts(state="running", parameters=parameters, num_steps=training.plan.num_steps)
    if fresh and training.copied:
        run.update_facts(copied_layers=training.copied)
    try:
        _run_steps(training)
    except WorkError:
        run.update_facts(state="failed")
        raise
    except BaseException:
        # Whatever stopped it (a second interrupt, memory, a defect): the same command goes on from the last checkpoint.
        run.update_facts(state="interrupted")
        raise
    run.update_facts(state="finished", finished=utc_now(), duration_s=round(training.trained_s, 1))
    checkpoint_path(run.path).unlink(missing_ok=True)
    return run


def resume_command(run_folder: Path) -> str:
    """What to type to go on with an interrupted training."""
    return f"alexnet resume {shlex.quote(str(run_folder))}"


def dropout_seed(seed: int, step: int) -> int:
    """Seed of the dropout masks of one step, 32 bits well mixed: torch's generator for the CPU reads no more."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def _create_or_continue(
    run: RunFolder, recipe: Recipe, data: PreparedData, data_folder: Path, start_from: Path | None
) -> None:
    """Make the run folder, or see that it holds an unfinished training of the same recipe on the same data."""
    if not (run.path / "run.json").is_file():
        facts = {
            "commit": source_commit(),
            "machine": machine_facts(),
            "versions": versions(),
            "seed": recipe.training.seed,
            "start_from": str(start_from.absolute()) if start_from else None,
            "data": {
                "folder": str(data_folder.absolute()),
                "title": data.title,
                "generated": data.generated,
                "checksum": data.checksum,
                "side": data.side,
                "num_classes": data.num_classes,
                "splits": {name: len(split) for name, split in data.splits.items()},
            },
        }
        RunFolder.create(run.path, recipe, facts)
        return
    RunFolder.open(run.path)
    if run.state == "finished":
        raise RequestError(
            f"{run.path} holds a finished run; name another --run, or look at it with `alexnet report {run.path}`"
        )
    if run.state == "failed":
        raise RequestError(f"{run.path} holds a failed run; remove it or name another --run")
    if differences := recipe_differences(run.recipe(), recipe):
        raise RequestError(
            f"{run.path} holds an unfinished run of another recipe ({'; '.join(differences)}); "
            f"go on with it by `{resume_command(run.path)}`, or name another --run"
        )
    before = run.facts().get("start_from")
    if start_from and str(start_from.absolute()) != before:
        raise RequestError(
            f"{run.path} holds an unfinished run that started from {before or 'random weights'}, not {start_from}; "
            f"go on with it by `{resume_command(run.path)}`, or name another --run"
        )
    if run.facts()["data"]["checksum"] != data.checksum:
        raise RequestError(
            f"{run.path} holds an unfinished run on other data ({run.facts()['data']['folder']}); name another --run"
        )


def _restore(training: Training) -> None:
    """Take up the run's last checkpoint, or its beginning, and cut the log to what is behind these weights."""
    run = training.run
    if checkpoint_path(run.path).is_file():
        position = load_checkpoint(run.path, training.network, training.optimizer, training.average)
        training.step, training.trained_s = position.step, position.trained_s
        training.window = Tally(since_s=position.trained_s)
        run.drop_events_after(position.step)
    else:
        # Without a checkpoint a run that was killed starts anew: nothing it logged is behind these weights.
        run.drop_events_after(-1)
    training.left_chance = any(event["event"] == "left_chance" for event in run.events())
    training.errors = [event["top1_error"] for event in run.events() if event["event"] == "validation"]
    run.log(
        "start",
        step=training.step,
        device=str(training.device),
        precision=training.precision,
        threads=torch.get_num_threads(),
    )


def _run_steps(training: Training) -> None:
    plan = training.plan
    mean_image = torch.from_numpy(training.data.statistics.mean_image).to(training.device)
    last_checkpoint = time.monotonic()
    training.network.train()
    with (
        stop_on_signal() as stop,
        TrainingProgress(training.run.path.name, training.step, plan.num_steps, plan.num_epochs) as progress,
    ):
        # The stopwatch covers waiting for data and the step; it stands still for validation and checkpoints.
        mark = time.perf_counter()
        for stretch, batch in _batches(training):
            loss, wrong = _step(training, stretch, batch, mean_image)
            training.step += 1
            training.trained_s += time.perf_counter() - mark
            training.window.add(loss, wrong, len(batch.labels))
            training.epoch.add(loss, wrong, len(batch.labels))
            progress.advance(training.step)
            if training.step % LOG_EVERY_STEPS == 0 or training.step == plan.num_steps:
                _log_window(training, progress)
            if plan.ends_epoch(training.step):
                _end_epoch(training, progress)
            if _over(training):
                break
            if stop:
                _save_state(training)
                _save_weights(training)
                training.run.log("interrupted", step=training.step, by=stop.signal_name)
                raise Interrupted(
                    f"stopped by {stop.signal_name} after step {training.step} of {plan.num_steps}; "
                    f"go on with `{resume_command(training.run.path)}`"
                )
            if time.monotonic() - last_checkpoint > CHECKPOINT_EVERY_S:
                _save_state(training)
                last_checkpoint = time.monotonic()
            mark = time.perf_counter()
    _save_weights(training)
    training.run.log("end", step=training.step, trained_s=round(training.trained_s, 3))


def _batches(training: Training) -> Iterator[tuple[Stretch, Batch]]:
    """The batches that are left, each with the stretch of the plan it stands in."""
    for stretch in training.plan.stretches:
        first, begin = max(training.step, stretch.first_step), stretch.epoch_step
        if first >= stretch.last_step or _over(training):
            continue
        with closing(loader_of(training, stretch).batches(first - begin, stretch.last_step - begin)) as batches:
            for batch in batches:
                yield stretch, batch


def _over(training: Training) -> bool:
    """Whether the last step is done, or the validation error has stalled for the last time."""
    return training.step == training.plan.num_steps or ended(training.errors, training.recipe.schedule)


def _step(training: Training, stretch: Stretch, batch: Batch, mean_image: torch.Tensor) -> tuple[float, int]:
    """One update; returns the batch's mean loss and how many of its images were wrong."""
    recipe = training.recipe
    noisy = recipe.data.colour_shrink and stretch.colour_noise
    training.dropout.manual_seed(dropout_seed(recipe.training.seed, training.step))
    images = to_input(
        batch,
        mean_image,
        training.device,
        mean_at=recipe.data.mean,
        divisor=1 + recipe.data.colour_noise if noisy else 1.0,
    )  # (B, 3, S, S)
    labels = batch.labels.to(training.device)
    with arithmetic(training.device, training.precision):
        scores = training.network(images).float()  # (B, K)
    loss = F.cross_entropy(scores, labels, label_smoothing=recipe.training.label_smoothing)
    value = loss.item()
    if not math.isfinite(value):
        kept = training.run.path / "weights-at-failure.safetensors"
        save_trained(kept, _trained(training))
        training.run.log("not_finite", step=training.step, loss=str(value), samples=batch.samples.tolist())
        raise WorkError(
            f"the loss of step {training.step} is {value}; the weights that gave it are kept in {kept}. "
            "A lower --optimizer.rate usually helps"
        )
    training.optimizer.clear_gradients()
    loss.backward()  # type: ignore[no-untyped-call]
    training.optimizer.step(_rates(training, training.step))
    if training.average is not None:
        training.average.update(training.step)
    wrong = int((scores.detach().argmax(1) != labels).sum())
    return value, wrong


def _rates(training: Training, step: int) -> Rates:
    plan = training.plan
    return rates_at(training.recipe, step, plan.num_steps, plan.stretch(step).stage, training.errors)


def _log_window(training: Training, progress: TrainingProgress) -> None:
    loss, error = training.window.means()
    epoch = training.plan.epochs_at(training.step)
    images_per_second = training.window.num / max(1e-9, training.trained_s - training.window.since_s)
    rates = _rates(training, training.step - 1)
    training.run.log(
        "step",
        step=training.step,
        epoch=round(epoch, 4),
        loss=round(loss, 6),
        top1_error=round(error, 6),
        rate=rates.weights,
        bias_rate=rates.biases,
        layer_rates=dict(rates.layers),
        images_per_second=round(images_per_second, 1),
        elapsed_s=round(training.trained_s, 3),
    )
    progress.update(training.step, epoch, loss, error, images_per_second)
    if not training.left_chance and loss < LEFT_CHANCE * math.log(training.data.num_classes):
        training.left_chance = True
        training.run.log("left_chance", step=training.step, loss=round(loss, 6))
        progress.say(f"step {training.step}: the loss has left ln {training.data.num_classes}, the network is learning")
    training.window = Tally(since_s=training.trained_s)


def _end_epoch(training: Training, progress: TrainingProgress) -> None:
    epoch = training.plan.epoch_number(training.step)
    loss, error = training.epoch.means()
    training.epoch = Tally(since_s=training.trained_s)
    training.run.log(
        "epoch",
        epoch=epoch,
        step=training.step,
        train_loss=round(loss, 6),
        train_top1_error=round(error, 6),
        elapsed_s=round(training.trained_s, 3),
    )
    settings = training.recipe
    if epoch % settings.training.evaluate_every and training.step != training.plan.num_steps:
        return
    split = training.data.evaluation_split
    with _weights_to_keep(training):
        measured = evaluate_split(
            training.network,
            training.data,
            split,
            settings.data.crop,
            1,
            mean_at=settings.data.mean,
            device=training.device,
            precision=training.precision,
        )
    training.network.train()
    _note_stall(training, measured.top1_error, progress)
    training.run.log(
        "validation",
        epoch=epoch,
        step=training.step,
        split=split,
        top1_error=measured.top1_error,
        top5_error=measured.top5_error,
        loss=measured.loss,
        num_images=measured.num_images,
    )
    progress.say(
        f"epoch {epoch}: training loss {loss:.3f}, error {100 * error:.1f} %; "
        f"{split} loss {measured.loss:.3f}, top-1 error {100 * measured.top1_error:.1f} %"
    )


def _note_stall(training: Training, error: float, progress: TrainingProgress) -> None:
    """Add a validation error; on a `plateau` schedule, say what follows from it."""
    schedule = training.recipe.schedule
    before = stalls(training.errors, schedule)
    training.errors.append(error)
    if schedule.kind == "plateau" and stalls(training.errors, schedule) > before:
        what = "training ends" if ended(training.errors, schedule) else f"rates times {schedule.factor:g}"
        training.run.log("stall", step=training.step, then=what)
        progress.say(f"the validation error has not improved for {schedule.patience} epochs: {what}")


def _weights_to_keep(training: Training) -> AbstractContextManager[None]:
    """The network as it is measured and saved: with the averaged weights where there are such."""
    return nullcontext() if training.average is None else training.average.in_place()


def _save_state(training: Training) -> None:
    save_checkpoint(
        training.run.path,
        training.network,
        training.optimizer,
        Position(step=training.step, trained_s=training.trained_s),
        training.average,
    )


def _save_weights(training: Training) -> None:
    # Evaluations of an interrupted run's weights are not those of the weights that follow.
    training.run.forget_evaluations()
    with _weights_to_keep(training):
        save_trained(training.run.weights, _trained(training))


def _trained(training: Training) -> Trained:
    return Trained(
        network=training.network,
        classes=training.data.classes,
        mean_image=torch.from_numpy(training.data.statistics.mean_image),
        crop=training.recipe.data.crop,
        title=training.data.title,
        generated=training.data.generated,
        mean_at=training.recipe.data.mean,
    )
