/* Makes one call of the system fail: preloaded into a process, whose calls on files of a folder it
   counts.

   FAIL_FOLDER: the folder.   FAIL_AT: the number of the call that fails, from 1; 0 for none.
   FAIL_HOW: an errno, or -1 for a write of half of the bytes, after which the disk is full.
   FAIL_TRACE: a file to which the names of the calls are written. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int count, is_full;

static int in_folder(const char* path) {
    const char* folder = getenv("FAIL_FOLDER");
    return folder && path && strncmp(path, folder, strlen(folder)) == 0;
}

static int is_ours(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return in_folder(path);
}

/* Whether this call is to fail; 2 for half of a write. */
static int fails(const char* name) {
    const char* trace = getenv("FAIL_TRACE");
    if (trace) {
        FILE* file = fopen(trace, "a");
        fprintf(file, "%s\n", name);
        fclose(file);
    }
    const char* at = getenv("FAIL_AT");
    if (++count != (at ? atoi(at) : 0)) return 0;
    const int how = atoi(getenv("FAIL_HOW"));
    if (how == -1) return 2;
    errno = how;
    return 1;
}

ssize_t write(int fd, const void* data, size_t n) {
    static ssize_t (*next)(int, const void*, size_t);
    if (!next) next = dlsym(RTLD_NEXT, "write");
    if (!is_ours(fd)) return next(fd, data, n);
    if (is_full) {
        errno = ENOSPC;
        return -1;
    }
    const int how = fails("write");
    if (how == 1) return -1;
    if (how == 2) is_full = 1;
    return next(fd, data, how == 2 ? n / 2 : n);
}

#define ON_HANDLE(name, kind)                         \
    int name(int fd) {                                \
        static int (*next)(int);                      \
        if (!next) next = dlsym(RTLD_NEXT, #name);    \
        if (!is_ours(fd) || !fails(#name)) return next(fd); \
        kind                                          \
        return -1;                                    \
    }

ON_HANDLE(fsync, )
ON_HANDLE(close, { const int code = errno; next(fd); errno = code; })

int rename(const char* from, const char* to) {
    static int (*next)(const char*, const char*);
    if (!next) next = dlsym(RTLD_NEXT, "rename");
    return in_folder(to) && fails("rename") ? -1 : next(from, to);
}

int chmod(const char* path, mode_t mode) {
    static int (*next)(const char*, mode_t);
    if (!next) next = dlsym(RTLD_NEXT, "chmod");
    return in_folder(path) && fails("chmod") ? -1 : next(path, mode);
}

int unlink(const char* path) {
    static int (*next)(const char*);
    if (!next) next = dlsym(RTLD_NEXT, "unlink");
    return in_folder(path) && fails("unlink") ? -1 : next(path);
}

#define OPENS(name)                                                        \
    int name(const char* path, int flags, ...) {                           \
        static int (*next)(const char*, int, ...);                         \
        if (!next) next = dlsym(RTLD_NEXT, #name);                         \
        mode_t mode = 0;                                                   \
        if (flags & O_CREAT) {                                             \
            __builtin_va_list arguments;                                   \
            __builtin_va_start(arguments, flags);                          \
            mode = __builtin_va_arg(arguments, mode_t);                    \
            __builtin_va_end(arguments);                                   \
        }                                                                  \
        return in_folder(path) && fails("open") ? -1 : next(path, flags, mode); \
    }

OPENS(open)
OPENS(open64)
