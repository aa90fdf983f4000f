"""Python objects through a DataEncoder on both sides, and the queues seen by an admin client.

Usage: objects.py worker|client|admin HOST:PORT
"""

import json
import signal
import sys

import gearworker.compat as gearman


class JSONDataEncoder(gearman.DataEncoder):
    @classmethod
    def encode(cls, encodable_object):
        return json.dumps(encodable_object, sort_keys=True).encode("utf-8")

    @classmethod
    def decode(cls, decodable_string):
        return json.loads(decodable_string)


class JSONGearmanWorker(gearman.GearmanWorker):
    data_encoder = JSONDataEncoder

    def on_job_exception(self, current_job, exc_info):
        self.send_job_exception(current_job, {"error": str(exc_info[1])})
        return False


class JSONGearmanClient(gearman.GearmanClient):
    data_encoder = JSONDataEncoder


def summarize(gearman_worker, gearman_job):
    numbers = gearman_job.data["numbers"]
    gearman_worker.send_job_data(gearman_job, {"count": len(numbers)})
    return {"sum": sum(numbers), "mean": sum(numbers) / len(numbers)}


def nothing(gearman_worker, gearman_job):
    return None


def work(address):
    gm_worker = JSONGearmanWorker([address])
    gm_worker.register_task("summarize", summarize)
    gm_worker.register_task("nothing", nothing)
    signal.signal(signal.SIGTERM, lambda number, frame: gm_worker.shutdown())
    gm_worker.work()
    print("shut down")


def ask(address):
    gm_client = JSONGearmanClient([address])
    good = gm_client.submit_job("summarize", {"numbers": [1, 2, 6]})
    print(good.state, good.result, list(good.data_updates))
    bad = gm_client.submit_job("summarize", {"numbers": []})
    print(bad.state, bad.result, bad.exception)
    none = gm_client.submit_job("nothing", None)
    print(none.state, none.result)
    gm_client.submit_job("unserved", {"later": True}, background=True, unique="waiting")


def administer(address):
    gm_admin_client = gearman.GearmanAdminClient([address])
    for row in sorted(gm_admin_client.get_status(), key=lambda row: row["task"]):
        print("{task}: {queued} queued, {running} running, {workers} workers".format(**row))
    for row in gm_admin_client.get_workers():
        if row["tasks"]:
            print("worker:", " ".join(sorted(row["tasks"])))
    print("version:", bool(gm_admin_client.get_version()), "ping:", gm_admin_client.ping_server() < 5)
    print("uniques:", *gm_admin_client.get_unique_jobs())
    (job,) = gm_admin_client.get_jobs()
    gm_admin_client.cancel_job(job["handle"])
    gm_admin_client.send_maxqueue("summarize", 10)
    try:
        gm_admin_client.cancel_job("H:nowhere:1")
    except gearman.errors.ProtocolError as error:
        print("refused:", "UNKNOWN_JOB" in str(error))


if __name__ == "__main__":
    {"worker": work, "client": ask, "admin": administer}[sys.argv[1]](sys.argv[2])
