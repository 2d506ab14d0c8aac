/* Preloaded, this library makes each close(2) of a listening socket wait a twentieth of a second before the
   system call.

   Between the moment in which a server has found its accept queue empty and the closing of the socket, the
   kernel may complete one more handshake: that client believes it is connected, and is reset.  The gap is some
   microseconds wide; here it is wide enough for a client to fall in every time. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAUSE 50000 /* microseconds */

int close(int descriptor)
{
    static int (*real)(int);
    int listening = 0;
    socklen_t size = sizeof listening;
    if (!real)
        real = dlsym(RTLD_NEXT, "close");
    if (getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 && listening)
        usleep(PAUSE);
    return real(descriptor);
}
