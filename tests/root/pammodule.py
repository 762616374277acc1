"""A PAM module that misbehaves for one user, compiled for the test, and PAM services."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import require

# Arguments: WHAT, at which call (acct, setcred, open or close), for which user.
SOURCE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#define PAM_SM_AUTH
#define PAM_SM_ACCOUNT
#define PAM_SM_SESSION
#include <security/pam_modules.h>

static int act(pam_handle_t *pamh, const char *now, int argc, const char **argv)
{
    const char *user = NULL;
    if (argc != 3 || strcmp(argv[1], now) != 0)
        return PAM_SUCCESS;
    if (pam_get_user(pamh, &user, NULL) != PAM_SUCCESS || strcmp(argv[2], user) != 0)
        return PAM_SUCCESS;
    if (strcmp(argv[0], "segfault") == 0) {
        raise(SIGSEGV);
    } else if (strcmp(argv[0], "abort") == 0) {
        abort();
    } else if (strcmp(argv[0], "exit") == 0) {
        exit(0);
    } else if (strcmp(argv[0], "close") == 0) {
        for (int fd = 3; fd < 1024; fd++)
            close(fd);
    } else if (strcmp(argv[0], "closeall") == 0) {
        for (int fd = 0; fd < 1024; fd++)
            close(fd);
    } else if (strcmp(argv[0], "uid") == 0 || strcmp(argv[0], "euid") == 0) {
        uid_t uid = getpwnam(user)->pw_uid;
        if (strcmp(argv[0], "uid") == 0 ? setresuid(uid, uid, uid) : seteuid(uid))
            return PAM_SYSTEM_ERR;
    } else if (strcmp(argv[0], "leave") == 0) {
        if (open("/etc/shadow", O_RDONLY) < 0 || fcntl(0, F_DUPFD, 300) < 0)
            return PAM_SYSTEM_ERR;
    } else if (strcmp(argv[0], "block") == 0) {
        sigset_t all;
        sigfillset(&all);
        sigprocmask(SIG_BLOCK, &all, NULL);
    } else if (strcmp(argv[0], "hang") == 0) {
        sigset_t all;
        sigfillset(&all);
        sigprocmask(SIG_BLOCK, &all, NULL);
        for (unsigned left = 300; left; )
            left = sleep(left);
    } else {
        return PAM_SYSTEM_ERR;
    }
    return PAM_SUCCESS;
}

#define CALL(name, now) \
    int name(pam_handle_t *pamh, int flags, int argc, const char **argv) \
    { (void)flags; return act(pamh, now, argc, argv); }
CALL(pam_sm_acct_mgmt, "acct")
CALL(pam_sm_setcred, "setcred")
CALL(pam_sm_open_session, "open")
CALL(pam_sm_close_session, "close")
int pam_sm_authenticate(pam_handle_t *pamh, int flags, int argc, const char **argv)
{ (void)pamh; (void)flags; (void)argc; (void)argv; return PAM_AUTH_ERR; }
"""


def build(folder: Path, name: str = "pam_misbehaves", source: str = SOURCE) -> Path:
    """The shared object, by its absolute path."""
    require(shutil.which("gcc") is not None, "gcc")
    require(Path("/usr/include/security/pam_modules.h").exists(), "libpam0g-dev")
    text, module = folder / f"{name}.c", folder / f"{name}.so"
    text.write_text(source)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", module, text, "-lpam"], check=True)
    return module


RUNNER = r"""
#include <unistd.h>
int main(int argc, char **argv)
{
    for (int left = 1000000; left > 0; left--) {
        pid_t pid = fork();
        if (pid > 0)
            _exit(0);
        if (pid < 0)
            usleep(1000);
    }
}
"""
"""A process that is always another one: whoever looks for its pid finds it gone."""


def program(folder: Path, name: str, source: str) -> Path:
    """A program compiled from C, which everybody may run."""
    require(shutil.which("gcc") is not None, "gcc")
    text, target = folder / f"{name}.c", folder / name
    text.write_text(source)
    subprocess.run(["gcc", "-O2", "-o", target, text], check=True)
    return target


@contextmanager
def service(*lines: str) -> Iterator[str]:
    """A file of /etc/pam.d with these lines; its name."""
    path = Path("/etc/pam.d") / f"mepd-test-{secrets.token_hex(4)}"
    path.write_text("\n".join(lines) + "\n")
    try:
        yield path.name
    finally:
        path.unlink()


def misbehaving(module: Path, what: str, when: str, user: str) -> tuple[str, ...]:
    """The lines of a service whose module does ``what`` at ``when`` for ``user`` only."""
    words = f"{module} {what} {when} {user}"
    return (
        f"auth required {words}", f"account required {words}", f"session required {words}",
    )  # fmt: skip
