/* Kills the process at its Nth system call after it has received descriptors, N being KILL_AT.
 *
 * Time is a bad measure of how far a process has come.  So the calls are counted, of those kinds that a successor
 * makes between getting its predecessor's sockets and saying that it accepts; that word is never sent.  With
 * KILL_AT=0 nothing is killed, and their number is written to the file KILL_COUNT when the word is sent.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static int received, said;
static long calls;

static void count(void) {
    const char *at = getenv("KILL_AT");
    if (!received || said || at == NULL)
        return;
    calls++;
    if (calls == atol(at))
        kill(getpid(), SIGKILL);
}

#define REAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
    ssize_t size = REAL(recvmsg)(fd, message, flags);
    if (size >= 0 && message->msg_controllen > 0)
        received = 1;
    return size;
}

int close(int fd) {
    count();
    return REAL(close)(fd);
}

ssize_t read(int fd, void *data, size_t size) {
    count();
    return REAL(read)(fd, data, size);
}

ssize_t write(int fd, const void *data, size_t size) {
    count();
    return REAL(write)(fd, data, size);
}

ssize_t recv(int fd, void *data, size_t size, int flags) {
    count();
    return REAL(recv)(fd, data, size, flags);
}

int socket(int family, int type, int protocol) {
    count();
    return REAL(socket)(family, type, protocol);
}

int bind(int fd, const struct sockaddr *address, socklen_t size) {
    count();
    return REAL(bind)(fd, address, size);
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *size) {
    count();
    return REAL(getsockopt)(fd, level, name, value, size);
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    int mode = va_arg(more, int);
    va_end(more);
    count();
    return REAL(open64)(path, flags, mode);
}

int stat64(const char *path, struct stat64 *found) {
    count();
    return REAL(stat64)(path, found);
}

int fstat64(int fd, struct stat64 *found) {
    count();
    return REAL(fstat64)(fd, found);
}

int listen(int fd, int backlog) {
    count();
    return REAL(listen)(fd, backlog);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t size) {
    count();
    return REAL(setsockopt)(fd, level, name, value, size);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
    count();
    return REAL(epoll_ctl)(epoll, operation, fd, event);
}

ssize_t send(int fd, const void *data, size_t size, int flags) {
    count();
    if (size > 23 && memmem(data, size, "/takeover/accepts", 17) != NULL && !said) {
        const char *at = getenv("KILL_AT"), *where = getenv("KILL_COUNT");
        if (at != NULL && atol(at) > 0)
            kill(getpid(), SIGKILL);
        if (where != NULL) {
            FILE *file = fopen(where, "w");
            fprintf(file, "%ld", calls);
            fclose(file);
        }
        said = 1;
    }
    return REAL(send)(fd, data, size, flags);
}
