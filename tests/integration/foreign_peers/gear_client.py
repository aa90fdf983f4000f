"""Submits one job through gear's client; prints what came of it as one line of JSON.

Usage: gear_client.py PORT TASK DATA TIMEOUT_S [exceptions] [background]
"""

import json
import sys
import threading
import time

import gear

port, task, data, timeout_s, *options = sys.argv[1:]
deadline = time.monotonic() + float(timeout_s)
ended = threading.Event()


class Client(gear.Client):
    """Tells when a job has ended."""

    def handleWorkComplete(self, packet):
        super().handleWorkComplete(packet)
        ended.set()

    def handleWorkFail(self, packet):
        super().handleWorkFail(packet)
        ended.set()

    def handleWorkException(self, packet):
        super().handleWorkException(packet)
        ended.set()


client = Client()
client.addServer("127.0.0.1", int(port))
client.waitForServer(timeout=float(timeout_s))
if "exceptions" in options:
    assert client.setOption("exceptions", timeout=float(timeout_s))
job = gear.Job(task.encode(), data.encode(), unique=f"gear-{port}-{time.time_ns()}".encode())
client.submitJob(job, background="background" in options, timeout=float(timeout_s))
if "background" in options:
    while job.known is not False and time.monotonic() < deadline:
        client.sendPacket(gear.Packet(gear.constants.REQ, gear.constants.GET_STATUS, job.handle), job.connection)
        time.sleep(0.02)
else:
    ended.wait(float(timeout_s))
print(
    json.dumps(
        {
            "complete": job.complete,
            "failed": job.failure,
            "data": [part.decode() for part in job.data],
            "warned": job.warning,
            "exception": job.exception and job.exception.decode(),
            "status": [int(job.numerator or 0), int(job.denominator or 0)],
            "known": job.known,
            "running": job.running,
        }
    )
)
client.shutdown()
