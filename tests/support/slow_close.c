/* Preloaded, this library makes the end of a listening socket, by close(2) or shutdown(2), wait a twentieth of a
   second before the system call.

   Between the moment in which a server has found its accept queue empty and that call, the kernel may complete
   one more handshake: that client believes it is connected, and is reset.  The gap is some microseconds wide;
   here it is wide enough for a client to fall in every time. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAUSE 50000 /* microseconds */

static void pause_if_listening(int descriptor)
{
    int listening = 0;
    socklen_t size = sizeof listening;
    if (getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 && listening)
        usleep(PAUSE);
}

int close(int descriptor)
{
    static int (*real)(int);
    if (!real)
        real = dlsym(RTLD_NEXT, "close");
    pause_if_listening(descriptor);
    return real(descriptor);
}

int shutdown(int descriptor, int how)
{
    static int (*real)(int, int);
    if (!real)
        real = dlsym(RTLD_NEXT, "shutdown");
    pause_if_listening(descriptor);
    return real(descriptor, how);
}
