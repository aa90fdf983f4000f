"""A worker that reverses text, and a client that has it do so, as python-gearman's documentation shows them.

Usage: reverse.py worker|client HOST:PORT
"""

import sys

import gearworker.compat as gearman


class CustomGearmanWorker(gearman.GearmanWorker):
    def on_job_execute(self, current_job):
        print("Job started", flush=True)
        return super().on_job_execute(current_job)

    def on_job_exception(self, current_job, exc_info):
        print("Job failed:", exc_info[0].__name__, flush=True)
        return super().on_job_exception(current_job, exc_info)

    def on_job_complete(self, current_job, job_result):
        print("Job completed", flush=True)
        return super().on_job_complete(current_job, job_result)

    def after_poll(self, any_activity):
        # Return True if you want to continue polling
        return True


def task_callback(gearman_worker, gearman_job):
    text = gearman_job.data
    if not text:
        raise ValueError("nothing to reverse")
    for index in range(len(text)):
        gearman_worker.send_job_status(gearman_job, index + 1, len(text))
    return text[::-1]


def work(address):
    gm_worker = CustomGearmanWorker([address])
    gm_worker.set_client_id("your_worker_client_id_name")
    gm_worker.register_task("reverse", task_callback)
    gm_worker.work()


def check_request_status(job_request):
    if job_request.complete:
        print(f"Job {job_request.job.unique} finished!  Result: {job_request.state} - {job_request.result}")
    elif job_request.timed_out:
        print(f"Job {job_request.job.unique} timed out!")
    elif job_request.state == gearman.constants.JOB_UNKNOWN:
        print(f"Job {job_request.job.unique} connection failed!")


def ask(address):
    gm_client = gearman.GearmanClient([address])
    check_request_status(gm_client.submit_job("reverse", b"Hello World!", unique="greeting"))
    check_request_status(gm_client.submit_job("reverse", b"", unique="empty"))
    high = gm_client.submit_job("reverse", b"abc", priority=gearman.PRIORITY_HIGH, unique="urgent")
    check_request_status(high)
    print("status: {numerator}/{denominator}".format(**high.status))


if __name__ == "__main__":
    {"worker": work, "client": ask}[sys.argv[1]](sys.argv[2])
