"""Jobs in the foreground and in the background, many at once, and their statuses polled.

Usage: statuses.py worker|client HOST:PORT
"""

import sys
import time

import gearworker.compat as gearman
from gearworker.compat.errors import ConnectionError, ServerUnavailable


def step_by_step(gearman_worker, gearman_job):
    steps = int(gearman_job.data)
    for step in range(steps):
        time.sleep(0.02)
        gearman_worker.send_job_status(gearman_job, step + 1, steps)
        gearman_worker.send_job_data(gearman_job, b"step %d" % (step + 1))
    gearman_worker.send_job_warning(gearman_job, b"all steps done")
    return b"%d steps" % steps


class OneShiftWorker(gearman.GearmanWorker):
    """Goes home when it has been quiet for a poll_timeout after the first job."""

    has_worked = False

    def after_poll(self, any_activity):
        return any_activity or not self.has_worked

    def after_job(self):
        self.has_worked = True
        return True


def work(address):
    gm_worker = OneShiftWorker([address])
    gm_worker.register_task("steps", step_by_step)
    try:
        gm_worker.work(poll_timeout=2.0)
    except ServerUnavailable:
        print("no job server")
        sys.exit(4)
    print("quiet; going home")


def ask(address):
    gm_client = gearman.GearmanClient([address])

    in_background = gm_client.submit_job("steps", b"30", background=True)
    print("background:", in_background.state, in_background.complete, in_background.result)
    while True:
        status = gm_client.get_job_status(in_background).status
        if not status["known"]:
            break
        time.sleep(0.05)
    print("background: done")

    jobs = [{"task": "steps", "data": b"%d" % count, "priority": gearman.PRIORITY_NONE} for count in (1, 2, 3)]
    requests = gm_client.submit_multiple_jobs(jobs, background=False, wait_until_complete=False)
    requests = gm_client.wait_until_jobs_completed(requests, poll_timeout=20.0)
    for request in requests:
        print("foreground:", request.state, request.result, list(request.data_updates), list(request.warning_updates))

    late = gm_client.submit_job("steps", b"25", poll_timeout=0.1)
    print("late:", late.state, late.timed_out)
    gm_client.submit_multiple_requests([late], poll_timeout=20.0)
    print("late:", late.state, late.timed_out, late.result)

    try:
        gearman.GearmanClient(["127.0.0.1:1"]).submit_job("steps", b"1")
    except (ConnectionError, gearman.errors.ServerUnavailable):
        print("nobody there")


if __name__ == "__main__":
    {"worker": work, "client": ask}[sys.argv[1]](sys.argv[2])
