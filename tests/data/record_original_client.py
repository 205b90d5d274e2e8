"""Drive a server with the Python client of the original Clipper and write down what was
said, for tests/test_original_client.py.

The client, clipper-admin 0.4.1, needs Python 3.7 and a virtual environment of its own:

    python3.7 -m venv original && original/bin/pip install clipper-admin==0.4.1
    clipper serve --ephemeral --no-auth &
    original/bin/python tests/data/record_original_client.py SESSION.json

The server must be fresh. Each step holds the call, the requests as they went out with
their answers, and what the client returned or raised.
"""

from __future__ import annotations

import argparse
import json

import requests
from clipper_admin import ClipperConnection, ClipperException
from clipper_admin.container_manager import ContainerManager


class RunningServer(ContainerManager):
    """A container manager for a server that runs already and needs no containers."""

    cluster_identifier = "recorded"

    def __init__(self, query_address, admin_address):
        self.query_address = query_address
        self.admin_address = admin_address

    def start_clipper(self, *args, **kwargs):
        pass

    def connect(self):
        pass

    def deploy_model(self, name, version, input_type, image, num_replicas=1):
        pass

    def get_num_replicas(self, name, version):
        return 0

    def set_num_replicas(self, name, version, input_type, image, num_replicas):
        pass

    def get_logs(self, logging_dir):
        return []

    def stop_models(self, models):
        pass

    def stop_all_model_containers(self):
        pass

    def stop_all(self, graceful=True):
        pass

    def get_admin_addr(self):
        return self.admin_address

    def get_query_addr(self):
        return self.query_address

    def get_metric_addr(self):
        return self.query_address


class Recorder:
    """Sees every request that leaves this process."""

    def __init__(self, query_address):
        self.query_address = query_address
        self.steps = []
        self._send = requests.Session.send
        recorder = self

        def send(session, request, **options):
            response = recorder._send(session, request, **options)
            recorder.record(request, response)
            return response

        requests.Session.send = send

    def record(self, request, response):
        host, _, path = request.url.partition("://")[2].partition("/")
        body = request.body
        port = "query" if host == self.query_address else "admin"
        sent = {
            "port": port,
            "method": request.method,
            "path": "/" + path,
            "headers": dict(request.headers),
            "body": body.decode() if isinstance(body, bytes) else body,
            "status": response.status_code,
        }
        if port == "admin":  # metrics and query ids are never the same twice
            sent["answer"] = response.text
        self.steps[-1]["requests"].append(sent)

    def call(self, work, *args, **kwargs):
        step = {"call": work.__name__, "args": list(args), "kwargs": kwargs, "requests": []}
        self.steps.append(step)
        try:
            step["returned"] = work(*args, **kwargs)
        except ClipperException as error:
            step["raised"] = type(error).__name__


def predict(address, app, value):
    """What the original's own tests do to ask for a prediction."""
    return requests.post(
        f"http://{address}/{app}/predict",
        headers={"Content-type": "application/json"},
        data=json.dumps({"input": value}),
    ).json()


def session(clipper, call):
    call(clipper.start_clipper)
    call(clipper.connect)
    call(clipper.get_all_apps)
    call(clipper.register_application, "app-a", "doubles", "-1.0", 100000)
    call(clipper.register_application, "app-a", "doubles", "-1.0", 100000)
    call(clipper.register_application, "app-b", "integers", "none", 20000)
    call(clipper.get_all_apps)
    call(clipper.get_all_apps, verbose=True)
    call(clipper.get_app_info, "app-a")
    call(clipper.get_app_info, "nowhere")

    call(clipper.get_all_models)
    call(clipper.register_model, "model-a", 1, "doubles")
    call(clipper.register_model, "model-a", 1, "doubles")
    call(
        clipper.register_model,
        "model-a",
        "2",
        "doubles",
        image="registry.example/model-a:2",
        labels=["fast", "new"],
        batch_size=9,
    )
    call(clipper.register_model, "model-a", "3", "doubles", batch_size=0)
    call(clipper.deploy_model, "model-b", "v1", "ints", "registry.example/model-b:1")
    call(clipper.get_all_models)
    call(clipper.get_all_models, verbose=True)
    call(clipper.get_model_info, "model-a", 2)
    call(clipper.get_model_info, "model-a", 17)
    call(clipper.get_current_model_version, "model-a")
    call(clipper.get_current_model_version, "nothing")
    call(clipper.set_model_version, "model-a", 1)
    call(clipper.get_current_model_version, "model-a")
    call(clipper.set_model_version, "model-a", "17")
    call(clipper.set_model_version, "nothing", 1)
    call(clipper.set_num_replicas, "model-a", 2, version=1)
    call(clipper.set_num_replicas, "nothing", 2, version=1)
    call(clipper.set_num_replicas, "model-a", 2, version=2)

    call(clipper.get_linked_models, "app-a")
    call(clipper.link_model_to_app, "app-a", "model-a")
    call(clipper.get_linked_models, "app-a")
    call(clipper.link_model_to_app, "app-a", "model-a")
    call(clipper.link_model_to_app, "app-a", "model-b")
    call(clipper.link_model_to_app, "app-a", "nothing")
    call(clipper.link_model_to_app, "nowhere", "model-a")
    call(clipper.register_model, "model-a", "4", "strings")
    call(clipper.get_app_info, "app-a")
    call(predict, clipper.get_query_addr(), "app-a", [1.1, 2.2, 3.3])

    call(clipper.get_all_model_replicas)
    call(clipper.get_all_model_replicas, verbose=True)
    call(clipper.get_model_replica_info, "model-a", 1, 0)

    call(clipper.unlink_model_from_app, "app-a", "model-a")
    call(clipper.unlink_model_from_app, "app-a", "model-a")
    call(clipper.get_linked_models, "app-a")
    call(clipper.stop_versioned_models, {"model-b": ["v1"]})
    call(clipper.stop_versioned_models, {"model-b": ["v1"]})
    call(clipper.stop_inactive_model_versions, ["model-a"])
    call(clipper.get_all_models)
    call(clipper.stop_models, ["model-a"])
    call(clipper.get_all_models)
    call(clipper.unregister_application, "app-a")
    call(clipper.delete_application, "app-b")
    call(clipper.unregister_application, "app-b")
    call(clipper.get_all_apps)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--query", default="localhost:1337")
    parser.add_argument("--admin", default="localhost:1338")
    given = parser.parse_args()
    recorder = Recorder(given.query)
    session(ClipperConnection(RunningServer(given.query, given.admin)), recorder.call)
    for step in recorder.steps:
        if step["call"] == "predict":  # the address and the query id differ every time
            del step["args"][0], step["returned"]["query_id"]
    with open(given.out, "w") as out:
        lines = [json.dumps(step, sort_keys=True) for step in recorder.steps]
        out.write("[\n{}\n]\n".format(",\n".join(lines)))


if __name__ == "__main__":
    main()
