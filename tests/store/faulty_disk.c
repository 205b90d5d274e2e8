/* A disk that remembers what was done to it, and that can fail.

   Preloaded, it writes every change of a file below DISK_ROOT to the file DISK_LOG, in
   order, with its data; `disk_fail` makes the n-th of the changes that follow fail. Records
   are: kind (1 byte), length of the path (4), path, number (8), length (8), data. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST_FILES 4096

static char *paths[MOST_FILES]; /* of the open files below the root, by descriptor */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_file = -1;
static const char *root = NULL;
static long countdown = 0;  /* changes until one fails; 0: none will */
static int fault = 0;       /* its errno; 0: a short write */
static long changes = 0;    /* since disk_fail was called */

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("DISK_LOG");
    root = getenv("DISK_ROOT");
    if (name != NULL)
        log_file = syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_APPEND, 0600);
}

/* The n-th change from now on fails: with this errno, or as a short write. n 0: none. */
void disk_fail(long n, int error) {
    pthread_mutex_lock(&lock);
    countdown = n;
    fault = error;
    changes = 0;
    pthread_mutex_unlock(&lock);
}

/* How many changes there were since. */
long disk_changes(void) { return changes; }

static int ours(const char *path) {
    return root != NULL && path != NULL && strncmp(path, root, strlen(root)) == 0;
}

static char *path_of(int file) {
    return file >= 0 && file < MOST_FILES ? paths[file] : NULL;
}

static void put(const void *data, size_t size) {
    while (size > 0) {
        ssize_t done = syscall(SYS_write, log_file, data, size);
        if (done <= 0)
            abort();
        data = (const char *)data + done;
        size -= done;
    }
}

static void note(char kind, const char *path, uint64_t number, const void *data,
                 uint64_t size) {
    uint32_t length = strlen(path);
    if (log_file < 0)
        return;
    put(&kind, 1);
    put(&length, 4);
    put(path, length);
    put(&number, 8);
    put(&size, 8);
    put(data, size);
}

/* Whether this change fails; called with the lock. */
static int fails(void) {
    changes++;
    return countdown > 0 && --countdown == 0;
}

static int open_file(const char *path, int flags, mode_t mode) {
    int changes_it = ours(path) && (flags & (O_CREAT | O_TRUNC));
    int file;
    pthread_mutex_lock(&lock);
    if (changes_it && access(path, F_OK) != 0 && fails() && fault != 0) {
        pthread_mutex_unlock(&lock);
        errno = fault;
        return -1;
    }
    file = syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (file >= 0 && file < MOST_FILES) {
        free(paths[file]);
        paths[file] = ours(path) ? strdup(path) : NULL;
        if (paths[file] != NULL && (flags & O_CREAT))
            note('c', path, 0, NULL, 0);
        if (paths[file] != NULL && (flags & O_TRUNC))
            note('t', path, 0, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return file;
}

#define OPEN(name)                                                   \
    int name(const char *path, int flags, ...) {                     \
        mode_t mode = 0;                                             \
        if (flags & (O_CREAT | O_TMPFILE)) {                         \
            va_list rest;                                            \
            va_start(rest, flags);                                   \
            mode = va_arg(rest, mode_t);                             \
            va_end(rest);                                            \
        }                                                            \
        return open_file(path, flags, mode);                         \
    }
OPEN(open)
OPEN(open64)

int close(int file) {
    pthread_mutex_lock(&lock);
    if (path_of(file) != NULL) {
        free(paths[file]);
        paths[file] = NULL;
    }
    pthread_mutex_unlock(&lock);
    return syscall(SYS_close, file);
}

static ssize_t write_at(int file, const void *data, size_t size, off_t place, int here) {
    char *path;
    ssize_t done;
    pthread_mutex_lock(&lock);
    path = path_of(file);
    if (path != NULL && fails()) {
        if (fault != 0) {
            pthread_mutex_unlock(&lock);
            errno = fault;
            return -1;
        }
        size = size > 1 ? size / 2 : size;
    }
    if (here && path != NULL) {
        struct stat found;
        place = lseek(file, 0, SEEK_CUR);
        if ((fcntl(file, F_GETFL) & O_APPEND) && fstat(file, &found) == 0)
            place = found.st_size;
    }
    done = here ? syscall(SYS_write, file, data, size)
                : syscall(SYS_pwrite64, file, data, size, place);
    if (path != NULL && done > 0)
        note('w', path, place, data, done);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t write(int file, const void *data, size_t size) {
    return write_at(file, data, size, 0, 1);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t place) {
    return write_at(file, data, size, place, 0);
}

ssize_t pwrite64(int file, const void *data, size_t size, off_t place) {
    return write_at(file, data, size, place, 0);
}

static int on_file(int file, char kind, long number, off_t length) {
    int done;
    char *path;
    pthread_mutex_lock(&lock);
    path = path_of(file);
    if (path != NULL && fails() && fault != 0) {
        pthread_mutex_unlock(&lock);
        errno = fault;
        return -1;
    }
    done = syscall(number, file, length);
    if (path != NULL && done == 0)
        note(kind, path, length, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int file, off_t length) {
    return on_file(file, 't', SYS_ftruncate, length);
}

int ftruncate64(int file, off_t length) {
    return on_file(file, 't', SYS_ftruncate, length);
}

int fsync(int file) { return on_file(file, 'f', SYS_fsync, 0); }

int fdatasync(int file) { return on_file(file, 'f', SYS_fdatasync, 0); }

static int on_name(const char *path, const char *other, char kind, int mode) {
    int done;
    pthread_mutex_lock(&lock);
    if (ours(path) && fails() && fault != 0) {
        pthread_mutex_unlock(&lock);
        errno = fault;
        return -1;
    }
    if (kind == 'r')
        done = syscall(SYS_renameat, AT_FDCWD, path, AT_FDCWD, other);
    else if (kind == 'm')
        done = syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    else
        done = syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (done == 0 && ours(path))
        note(kind, path, 0, other, other == NULL ? 0 : strlen(other));
    pthread_mutex_unlock(&lock);
    return done;
}

int rename(const char *path, const char *other) { return on_name(path, other, 'r', 0); }

int unlink(const char *path) { return on_name(path, NULL, 'u', 0); }

int mkdir(const char *path, mode_t mode) { return on_name(path, NULL, 'm', mode); }
