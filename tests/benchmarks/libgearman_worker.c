/*
 * The yardstick: a worker on libgearman, one connection, one task that does nothing.
 *
 *     cc -O2 -o libgearman_worker libgearman_worker.c -lgearman
 *     ./libgearman_worker HOST PORT TASK JOBS [TIMEOUT_S]
 *
 * It ends with 0 after JOBS jobs, with 1 on an error or where a wait for the next job lasts over TIMEOUT_S seconds.
 */
#include <libgearman/gearman.h>
#include <stdio.h>
#include <stdlib.h>

static void *do_nothing(gearman_job_st *job, void *context, size_t *result_size, gearman_return_t *ret)
{
    (void)job;
    ++*(unsigned long *)context;
    *result_size = 0;
    *ret = GEARMAN_SUCCESS;
    return NULL;
}

static int fail(gearman_worker_st *worker, const char *what)
{
    fprintf(stderr, "libgearman_worker: %s: %s\n", what, gearman_worker_error(worker));
    gearman_worker_free(worker);
    return 1;
}

int main(int argc, char **argv)
{
    if (argc != 5 && argc != 6) {
        fprintf(stderr, "usage: %s HOST PORT TASK JOBS [TIMEOUT_S]\n", argv[0]);
        return 2;
    }
    const unsigned long wanted = strtoul(argv[4], NULL, 10);
    const int timeout_ms = (argc == 6 ? atoi(argv[5]) : 30) * 1000;
    unsigned long done = 0;

    gearman_worker_st *worker = gearman_worker_create(NULL);
    if (worker == NULL) {
        fprintf(stderr, "libgearman_worker: out of memory\n");
        return 1;
    }
    gearman_worker_set_timeout(worker, timeout_ms);
    if (gearman_failed(gearman_worker_add_server(worker, argv[1], (in_port_t)atoi(argv[2]))))
        return fail(worker, "job server");
    if (gearman_failed(gearman_worker_add_function(worker, argv[3], 0, do_nothing, &done)))
        return fail(worker, "task");
    while (done < wanted) {
        if (gearman_failed(gearman_worker_work(worker)))
            return fail(worker, "work");
    }
    gearman_worker_free(worker);
    return 0;
}
