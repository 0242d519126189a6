"""Reports to MLflow: `python -m cluster.train --sink mlflow_sink:MLflow`, in the folder of this file or with it on PYTHONPATH."""

import mlflow


class MLflow:
    def __init__(self, folder, config):
        mlflow.set_experiment("two-column-alexnet")
        mlflow.start_run(run_name=config["name"])
        mlflow.log_params({"folder": str(folder), **config["train"], **config["compute"]})

    def report(self, report):
        if report["kind"] in ("train", "evaluation"):
            keys = (
                "loss",
                "top1_error",
                "top5_error",
                "images_per_second",
                "data_wait",
                "exchange_wait",
                "weights_rate",
            )
            values = {f"{report['kind']} {key}": report[key] for key in keys if key in report}
            mlflow.log_metrics(values, step=report["step"], timestamp=int(1000 * report["time"]))

    def close(self):
        mlflow.end_run()
