/* Preloaded, this library makes each send(2) wait half a millisecond before the system call.

   Between the moment in which an interpreter thread has read a socket's descriptor number and the system call
   itself, another thread may close that socket and open another one, which gets the same number.  The gap is
   a few nanoseconds wide; here it is wide enough to be hit often. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

#define PAUSE 500 /* microseconds */

ssize_t send(int descriptor, const void *data, size_t size, int flags)
{
    static ssize_t (*real)(int, const void *, size_t, int);
    if (!real)
        real = dlsym(RTLD_NEXT, "send");
    usleep(PAUSE);
    return real(descriptor, data, size, flags);
}

ssize_t sendmsg(int descriptor, const struct msghdr *message, int flags)
{
    static ssize_t (*real)(int, const struct msghdr *, int);
    if (!real)
        real = dlsym(RTLD_NEXT, "sendmsg");
    usleep(PAUSE);
    return real(descriptor, message, flags);
}
