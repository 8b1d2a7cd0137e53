/*
 * Preloaded into virtiofsd. The guest's overlayfs opens every file of its lower layers with O_NOATIME,
 * virtiofsd passes that on, and the host answers EPERM unless the caller owns the file: an ordinary
 * user's guest could run nothing of /usr. Whether access times change is the host's affair.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

static int forward(int folder, const char *path, int flags, mode_t mode)
{
	return syscall(SYS_openat, folder, path, flags & ~O_NOATIME, mode);
}

int openat64(int folder, const char *path, int flags, ...)
{
	mode_t mode = 0;
	va_list rest;

	if (flags & (O_CREAT | __O_TMPFILE)) {
		va_start(rest, flags);
		mode = va_arg(rest, mode_t);
		va_end(rest);
	}
	return forward(folder, path, flags, mode);
}

/* What a build with fortified calls uses where no mode is given. */
int __openat64_2(int folder, const char *path, int flags)
{
	return forward(folder, path, flags, 0);
}
