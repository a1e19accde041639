/* Writes down when it ends, and ends so: a code, or a signal. Or, as `cb`, when it begins. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void stamp(int file) {
    struct timespec now;
    char text[32];
    clock_gettime(CLOCK_MONOTONIC, &now);
    int length = snprintf(text, sizeof text, "%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
    if (write(file, text, length) != length)
        _exit(99);
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "cb")) {
        stamp(open(argv[2], O_WRONLY | O_CREAT | O_APPEND, 0600));
        return 0;
    }
    if (argc != 4)
        return 98; /* stamp SECONDS CODE FILE */
    int file = open(argv[3], O_WRONLY | O_CREAT | O_APPEND, 0600);
    double seconds = atof(argv[1]);
    struct timespec pause = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
    while (nanosleep(&pause, &pause))
        ;
    stamp(file);
    _exit(atoi(argv[2]));
}
