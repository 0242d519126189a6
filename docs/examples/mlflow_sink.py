"""Reports to MLflow: `python -m cluster.train --sink mlflow_sink:MLflow`, in the folder of this file or with it on PYTHONPATH."""

import mlflow

KINDS = ("train", "evaluation")
KEYS = ("loss", "top1_error", "top5_error", "images_per_second", "data_wait", "exchange_wait", "weights_rate")


class MLflow:
    """One MLflow run for all starts of a run: its id is kept in the run's folder."""

    def __init__(self, folder, config):
        mlflow.set_experiment("two-column-alexnet")
        kept = folder / "mlflow_run"
        begun = kept.read_text() if kept.exists() else None
        run_id = mlflow.start_run(run_id=begun, run_name=config["name"]).info.run_id
        if begun is None:  # later starts may have other settings, which MLflow would refuse
            kept.write_text(run_id)
            mlflow.log_params({"folder": str(folder), **config["train"], **config["compute"]})
        history = mlflow.MlflowClient().get_metric_history
        self.last = {kind: max((one.step for one in history(run_id, f"{kind} loss")), default=-1) for kind in KINDS}

    def report(self, report):
        kind, step = report["kind"], report["step"]
        # After a resume, the steps since the checkpoint come a second time.
        if kind in KINDS and step > self.last[kind]:
            self.last[kind] = step
            values = {f"{kind} {key}": report[key] for key in KEYS if key in report}
            mlflow.log_metrics(values, step=step, timestamp=int(1000 * report["time"]))

    def close(self):
        mlflow.end_run()
