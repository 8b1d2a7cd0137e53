/*
 * Preloaded into user-mode Linux, which saves and restores its processes' floating-point registers
 * through a buffer of 2696 octets. That is all of the state up to AVX-512. A host CPU with more (AMX:
 * 11008 octets) answers a write of any other length with EFAULT (arch/x86/kernel/fpu/regset.c,
 * xstateregs_set), and the guest's first process dies. So a short write becomes: read the whole
 * state, replace its beginning, write the whole back. The tail stays the process's own.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Larger than the state of any CPU so far. */
#define LARGEST 65536

static long forward(int request, long pid, void *address, void *data)
{
	return syscall(SYS_ptrace, (long)request, pid, address, data);
}

static long write_state(long pid, const struct iovec *part)
{
	static __thread unsigned char state[LARGEST];
	struct iovec whole = { .iov_base = state, .iov_len = sizeof(state) };

	if (forward(PTRACE_GETREGSET, pid, (void *)NT_X86_XSTATE, &whole) < 0)
		return -1;
	if (part->iov_len >= whole.iov_len)
		return forward(PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, (void *)part);
	memcpy(state, part->iov_base, part->iov_len);
	return forward(PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, &whole);
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list rest;
	long pid;
	void *address, *data;

	va_start(rest, request);
	pid = va_arg(rest, pid_t);
	address = va_arg(rest, void *);
	data = va_arg(rest, void *);
	va_end(rest);

	if (request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE)
		return write_state(pid, data);
	/* libc hides the difference between the system call's and the library's way of peeking. */
	if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
		long word = 0;

		if (forward(request, pid, address, &word) < 0)
			return -1;
		errno = 0;
		return word;
	}
	return forward(request, pid, address, data);
}
