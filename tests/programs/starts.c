/* Starts services one after the other, or some at once: each is a new cgroup into which a process moves, which executes
 * itself anew and connects at once. Static, so that next to nothing happens between the start and the connect.
 *
 * Arguments: PORT AT_ONCE. Paths of the cgroups come from standard input, one a line; those above are made if need be,
 * and one that is there is used again, as when a unit is restarted by a manager that keeps its cgroup. Prints one line of
 * JSON: what came of them, and percentiles of the time that connect took, in microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char canary[] = "canary-7f3a91c2-must-not-be-seen";

/* What a service says of itself: an errno, -1 if the answer was another, or 0; and how long connect took. */
struct came {
    int error;
    long microseconds;
};

static struct came talk(int port) {
    struct came came = {0, 0};
    struct timespec began, ended;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct timeval limit = {.tv_sec = 30};
    char answer[sizeof canary] = "";
    size_t have = 0;
    int sock = socket(AF_INET, SOCK_STREAM, 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    clock_gettime(CLOCK_MONOTONIC, &began);
    if (connect(sock, (struct sockaddr *)&to, sizeof to)) {
        came.error = errno;
        return came;
    }
    clock_gettime(CLOCK_MONOTONIC, &ended);
    came.microseconds = (ended.tv_sec - began.tv_sec) * 1000000 + (ended.tv_nsec - began.tv_nsec) / 1000;
    if (send(sock, canary, sizeof canary, MSG_NOSIGNAL) < 0) {
        came.error = errno;
        return came;
    }
    while (have < sizeof canary) {
        ssize_t got = recv(sock, answer + have, sizeof canary - have, 0);
        if (got <= 0) {
            came.error = got ? errno : -1;
            return came;
        }
        have += got;
    }
    came.error = memcmp(answer, canary, sizeof canary) ? -1 : 0;
    close(sock);
    return came;
}

static void start(char *self, const char *cgroup, const char *port, int out) {
    char number[16];
    int fd;
    snprintf(number, sizeof number, "%d", out);
    fd = openat(open(cgroup, O_PATH | O_DIRECTORY | O_CLOEXEC), "cgroup.procs", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1) {
        _exit(2);
    }
    close(fd);
    execl(self, self, "service", port, number, (char *)0);
    _exit(3);
}

static int by_time(const void *one, const void *other) {
    long a = *(const long *)one, b = *(const long *)other;
    return (a > b) - (a < b);
}

/* Makes a cgroup, and those above it. */
static int make(char *cgroup) {
    for (char *slash = strchr(cgroup + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdir(cgroup, 0755) && errno != EEXIST) {
            return 0;
        }
        *slash = '/';
    }
    return !mkdir(cgroup, 0755) || errno == EEXIST;
}

int main(int argc, char **argv) {
    static char lines[64][4096];
    int at_once, count = 0, failed = 0, good = 0, errors[256] = {0}, first = 1, more = 1;
    long *times = 0;
    if (argc == 4 && !strcmp(argv[1], "service")) {
        struct came came = talk(atoi(argv[2]));
        return write(atoi(argv[3]), &came, sizeof came) == sizeof came ? 0 : 1;
    }
    if (argc != 3 || (at_once = atoi(argv[2])) < 1 || at_once > 64) {
        return 1;
    }
    while (more) {
        int pipes[2], begun = 0;
        if (pipe(pipes)) {
            return 1;
        }
        for (; begun < at_once; begun++) {
            if (!fgets(lines[begun], sizeof lines[begun], stdin)) {
                more = 0;
                break;
            }
            lines[begun][strcspn(lines[begun], "\n")] = 0;
            if (!make(lines[begun])) {
                return 1;
            }
            if (!fork()) {
                start(argv[0], lines[begun], argv[1], pipes[1]);
            }
        }
        count += begun;
        times = realloc(times, (count + 1) * sizeof *times);
        close(pipes[1]);
        for (;;) {
            struct came came;
            if (read(pipes[0], &came, sizeof came) != sizeof came) {
                break;
            }
            if (came.error) {
                errors[came.error & 255]++;
                failed++;
            } else {
                times[good++] = came.microseconds;
            }
        }
        close(pipes[0]);
        while (wait(0) > 0) {
        }
        for (int one = 0; one < begun; one++) {
            rmdir(lines[one]);
        }
    }
    qsort(times, good, sizeof *times, by_time);
    printf("{\"good\": %d, \"silent\": %d, \"errors\": {", good, count - good - failed);
    for (int number = 0; number < 256; number++) {
        if (errors[number]) {
            printf("%s\"%d\": %d", first ? "" : ", ", number, errors[number]);
            first = 0;
        }
    }
    printf("}, \"p50\": %ld, \"p99\": %ld, \"max\": %ld}\n", good ? times[good / 2] : 0,
           good ? times[good * 99 / 100] : 0, good ? times[good - 1] : 0);
    return 0;
}
