/* Preloaded into a command by tests/torture/torture.py: counts the writes, fsyncs and renames below one folder and, at the chosen
 * one, kills the process or reports a full disk. It owns no policy: which call and what happens come from the environment.
 *
 * TORTURE_ROOT    absolute path of the watched folder
 * TORTURE_COUNTS  file of three uint64: calls so far of write, fsync, rename, shared by all processes of a command
 * TORTURE_ACT     "kill" or "full"; absent: only count
 * TORTURE_CALL    0 write, 1 fsync, 2 rename
 * TORTURE_AT      the call, from 1, at which it acts; "full" acts at every later one too
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

enum call { WRITE, FSYNC, RENAME };

static const char *root;
static uint64_t *counts;
static int act_kill, act_full, act_call;
static uint64_t act_at;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("TORTURE_COUNTS"), *act = getenv("TORTURE_ACT");
    root = getenv("TORTURE_ROOT");
    if (!root || !path) return;
    int file = open(path, O_RDWR);
    if (file < 0) return;
    void *map = mmap(NULL, 3 * sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (map == MAP_FAILED) return;
    counts = map;
    if (!act) return;
    act_kill = !strcmp(act, "kill");
    act_full = !strcmp(act, "full");
    act_call = atoi(getenv("TORTURE_CALL"));
    act_at = strtoull(getenv("TORTURE_AT"), NULL, 10);
}

static int below(const char *path) { return !strncmp(path, root, strlen(root)); }

static int watched(int file) {
    char link[64], path[PATH_MAX];
    if (!counts) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

/* Whether this call is the one to act at; counts it. */
static int reached(enum call call) {
    uint64_t number = __sync_add_and_fetch(&counts[call], 1);
    if ((int)call != act_call) return 0;
    return act_kill ? number == act_at : act_full ? number >= act_at : 0;
}

#define REAL(name, type) \
    static type real; \
    if (!real) real = (type)dlsym(RTLD_NEXT, #name)

typedef ssize_t (*write_type)(int, const void *, size_t);
typedef ssize_t (*pwrite_type)(int, const void *, size_t, off_t);
typedef ssize_t (*writev_type)(int, const struct iovec *, int);
typedef int (*fsync_type)(int);
typedef int (*msync_type)(void *, size_t, int);
typedef int (*rename_type)(const char *, const char *);

ssize_t write(int file, const void *data, size_t size) {
    REAL(write, write_type);
    if (!watched(file) || !reached(WRITE)) return real(file, data, size);
    if (act_full) { errno = ENOSPC; return -1; }
    real(file, data, size / 2); /* a torn write */
    raise(SIGKILL);
    return -1;
}

ssize_t pwrite64(int file, const void *data, size_t size, off_t offset) {
    REAL(pwrite64, pwrite_type);
    if (!watched(file) || !reached(WRITE)) return real(file, data, size, offset);
    if (act_full) { errno = ENOSPC; return -1; }
    real(file, data, size / 2, offset);
    raise(SIGKILL);
    return -1;
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    REAL(writev, writev_type);
    if (!watched(file) || !reached(WRITE)) return real(file, parts, count);
    if (act_full) { errno = ENOSPC; return -1; }
    raise(SIGKILL);
    return -1;
}

static int sync_or_die(void) {
    if (!reached(FSYNC)) return 0;
    if (act_kill) raise(SIGKILL);
    errno = ENOSPC;
    return -1;
}

int fsync(int file) {
    REAL(fsync, fsync_type);
    if (watched(file) && sync_or_die()) return -1;
    return real(file);
}

int fdatasync(int file) {
    REAL(fdatasync, fsync_type);
    if (watched(file) && sync_or_die()) return -1;
    return real(file);
}

int msync(void *start, size_t length, int flags) {
    REAL(msync, msync_type);
    if (counts && sync_or_die()) return -1;
    return real(start, length, flags);
}

int rename(const char *from, const char *to) {
    REAL(rename, rename_type);
    if (!counts) return real(from, to);
    char absolute[PATH_MAX];
    const char *target = to;
    if (to[0] != '/' && getcwd(absolute, sizeof absolute - strlen(to) - 2)) {
        strcat(strcat(absolute, "/"), to);
        target = absolute;
    }
    if (!below(target) || !reached(RENAME)) return real(from, to);
    if (act_full) { errno = ENOSPC; return -1; }
    raise(SIGKILL);
    return -1;
}
