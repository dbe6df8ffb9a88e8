"""Chains run by an unprivileged user who has two or three capabilities, and nothing else of root's."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys as python
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runtime import sys
from runtime.bpffs import bpffs_root
from runtime.daemon_socket import RUN_VARIABLE
from runtime.netns import entered
from runtime.pin import chains
from schemas.compiled import save
from tests.kernel.live import A, B, Host, bridge, frame, guarded_bridge
from tests.rig import probe
from tests.rig.network import Network
from tests.rig.probe.control import PASS, plain
from tests.rig.waiting import until

pytestmark = pytest.mark.kernel

UID = 54321
ENOUGH = ("bpf", "net_admin", "perfmon")


def becoming(caps: Sequence[str]) -> list[str]:
    """How a command begins that runs as nobody in particular, with exactly these capabilities."""
    held = ",".join(["-all", *(f"+{cap}" for cap in caps)])
    become = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    return [*become, f"--inh-caps={held}", f"--ambient-caps={held}", f"--bounding-set={held}", "--no-new-privs"]


@dataclass(frozen=True, slots=True)
class User:
    """A user with a bpffs of its own, on the machine under test."""

    machine: Host
    bpffs: Path
    folder: Path

    def run(self, *arguments: object, caps: Sequence[str] = ENOUGH) -> subprocess.CompletedProcess[str]:
        """bpfchain as this user, with exactly these capabilities."""
        command = [*becoming(caps), python.executable, "-m", "bpfchain", *map(str, arguments)]
        environment = {"PATH": os.environ["PATH"], "BPFCHAIN_BPFFS": str(self.bpffs), "HOME": "/nonexistent"}
        with entered(self.machine.namespace.name):
            return subprocess.run(
                command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120
            )

    @contextlib.contextmanager
    def daemon(self, run: Path) -> Iterator[Path]:
        """The daemon as this user, with one capability more; gives its log."""
        environment = {"PATH": os.environ["PATH"], "BPFCHAIN_BPFFS": str(self.bpffs), RUN_VARIABLE: str(run)}
        log = self.folder / "daemon.log"
        with entered(self.machine.namespace.name), log.open("wb") as opened:
            command = [*becoming((*ENOUGH, "net_raw")), python.executable, "-m", "tests.rig.daemon"]
            process = subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2], stderr=opened)
        try:
            yield log
        finally:
            process.terminate()
            process.wait(20)

    def built(self, name: str, chain: Mapping[str, Any]) -> Path:
        """A compiled chain in a directory that everybody may read."""
        directory = self.folder / name
        save(self.machine.compiled(chain), directory)
        return directory


@pytest.fixture
def user(machine: Host) -> Iterator[User]:
    with tempfile.TemporaryDirectory(prefix="bpfchain-test-") as folder:
        Path(folder).chmod(0o755)
        root = Path(folder, "bpffs")
        root.mkdir()
        sys.mount("bpf", str(root), "bpf", options=f"uid={UID},gid={UID},mode=0700")
        try:
            yield User(machine, root, Path(folder))
        finally:
            sys.umount(str(root))


def test_three_capabilities_are_enough_for_the_whole_life_of_a_chain(user: User, net: Network) -> None:
    """Applied, swapped, moved to other hooks, looked at and taken down, as nobody in particular."""
    aged = guarded_bridge()
    aged["services"]["br0"]["fdb"] = {"aging": "9s"}
    lives = {"first": guarded_bridge(), "aged": aged, "generic": guarded_bridge("generic"), "tc": guarded_bridge("tc")}
    for generation, (name, chain) in enumerate(lives.items(), 1):
        directory = user.built(name, chain)
        assert user.run("plan", directory).returncode == 3
        applied = user.run("apply", directory)
        assert (applied.returncode, applied.stderr) == (0, "")
        assert f"chain {user.machine.name}: runs generation {generation}" in applied.stdout
        net.send("p1", frame(A, B))
        assert net.arrivals(p2=1, p3=1) == {"p2": [frame(A, B)], "p3": [frame(A, B)]}
    tried = user.run("try", user.folder / "first", "--timeout", 1)
    assert (tried.returncode, tried.stderr.splitlines()[-1]) == (
        4,
        f"chain {user.machine.name}: rolled back: it was not confirmed within 1 s",
    )
    shown = user.run("status", "--format", "json")
    (found,) = json.loads(shown.stdout)["chains"]
    assert {interface["state"] for interface in found["interfaces"]} == {"attached"}
    assert found["problems"] == []
    detached = user.run("detach", user.machine.name)
    assert (detached.returncode, detached.stderr) == (0, f"chain {user.machine.name}: detached\n")
    assert not (user.bpffs / "bpfchain").exists()


@pytest.mark.parametrize("lacking", ENOUGH)
def test_each_of_them_is_needed_and_named_where_it_is_missing(lacking: str, user: User) -> None:
    directory = user.built("chain", bridge())
    missing = f"CAP_{lacking.upper()}"
    for command in (["plan", directory], ["apply", directory], ["status"], ["detach", "edge"]):
        result = user.run(*command, caps=[cap for cap in ENOUGH if cap != lacking])
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == (
            f"error[L141]: this needs the privilege {missing}\n"
            "  = help: run it as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON and a bpffs of its own\n"
        )
    assert chains(user.bpffs) == ()


def test_the_doctor_names_them_too_and_looks_at_the_devices_all_the_same(user: User) -> None:
    directory = user.built("chain", bridge())
    ill = user.run("doctor", directory, "--format", "json", caps=())
    assert ill.returncode == 1
    first, *devices = json.loads(ill.stdout)["diagnostics"]
    assert first["message"] == "this needs the privilege CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON"
    assert [found["code"] for found in devices] == ["H113", "H113"]
    assert devices[0]["message"].startswith("interface `p1`: `p1` has its far end in `bpfchain-")
    assert devices[0]["message"].endswith("-far`, which takes CAP_SYS_ADMIN to enter, so it was not looked at")
    assert user.run("doctor", directory).returncode == 0
    os.chown(user.bpffs, 0, 0)
    (found, *_) = json.loads(user.run("doctor", directory, "--format", "json").stdout)["diagnostics"]
    assert (found["code"], found["severity"]) == ("A131", "error")


def test_another_network_namespace_needs_one_more(user: User) -> None:
    chain = bridge()
    for interface in chain["interfaces"].values():
        interface["netns"] = user.machine.namespace.name
    directory = user.built("chain", chain)
    refused = user.run("apply", directory)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"error[L151]: cannot enter network namespace `{user.machine.namespace.name}`: Operation not permitted\n"
        "  = help: it takes CAP_SYS_ADMIN; or start bpfchain inside of the namespace and leave `netns` out\n"
    )
    assert user.run("apply", directory, caps=(*ENOUGH, "sys_admin")).returncode == 0
    assert user.run("detach", user.machine.name, caps=(*ENOUGH, "sys_admin")).returncode == 0


def test_a_place_that_cannot_be_written_and_one_that_is_no_bpffs(user: User) -> None:
    directory = user.built("chain", bridge())
    user.bpffs.chmod(0o755)
    os.chown(user.bpffs, 0, 0)
    refused = user.run("apply", directory)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"error[A131]: cannot keep anything in `{user.bpffs}`: Permission denied\n"
        f"  = help: as root: `mount -t bpf -o uid={UID},gid={UID},mode=0700 bpf DIRECTORY`, then `--bpffs DIRECTORY`\n"
    )
    plain = user.folder / "plain"
    plain.mkdir()
    refused = user.run("apply", directory, "--bpffs", plain)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"error[A110]: cannot mount bpffs at `{plain}`: Operation not permitted\n"
        f"  = help: as root: `mount -t bpf -o uid={UID},gid={UID},mode=0700 bpf {plain}`\n"
    )


def test_a_strangers_directory_in_an_open_bpffs_is_not_taken_over(user: User) -> None:
    home = user.bpffs / "bpfchain"
    home.mkdir(mode=0o700)
    os.chown(home, UID + 1, -1)
    refused = user.run("apply", user.built("chain", bridge()))
    assert refused.returncode == 1
    assert refused.stderr == (
        f"error[A130]: `{home}` is not trusted: it belongs to user {UID + 1}, who is neither root nor the caller\n"
        "  = note: it would hold everything that forwards packets\n"
        f"  = help: remove it, or `chown {UID} {home}`\n"
    )


@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_link_in_an_open_bpffs_is_not_followed(target: str, user: User) -> None:
    """Anybody can make one there, to a directory of the caller's own that anybody may rename."""
    (user.bpffs / "elsewhere").mkdir(mode=0o700)
    os.chown(user.bpffs / "elsewhere", UID, UID)
    home = user.bpffs / "bpfchain"
    home.symlink_to(user.bpffs / target)
    refused = user.run("apply", user.built("chain", bridge()))
    assert refused.returncode == 1
    assert refused.stderr == (
        f"error[A130]: `{home}` is not trusted: it is not a directory\n"
        "  = note: it would hold everything that forwards packets\n"
        "  = help: remove it\n"
    )
    assert list((user.bpffs / "elsewhere").iterdir()) == []


def test_a_taken_hook_is_refused_though_the_program_there_cannot_be_looked_at(user: User) -> None:
    user.machine.apply(bridge(ports=("p1", "p2")))
    other = user.built("chain", {"chain": "another", **bridge(ports=("p1", "p3"))})
    refused = user.run("apply", other)
    assert refused.returncode == 1
    prog_id = next(found.prog_id for found in user.machine.status().interfaces if found.name == "p1")
    assert refused.stderr == (
        f"error[A102]: XDP of device `p1` is taken by program {prog_id}\n"
        "  = note: attached as XDP\n"
        f"  = help: take it off with the tool that put it there, or have it replaced: "
        f"`bpfchain apply --replace p1={prog_id}`\n"
    )
    replaced = user.run("apply", other, "--replace", f"p1={prog_id}")
    assert (replaced.returncode, replaced.stderr) == (
        1,
        "error[A108]: `take over p1 (native)` failed: BPF_PROG_GET_FD_BY_ID: Operation not permitted (EPERM)\n",
    )
    assert chains(user.bpffs) == ()


def test_everything_that_is_kept_is_closed_to_others(machine: Host) -> None:
    machine.apply(guarded_bridge())
    home = bpffs_root() / "bpfchain"
    folders = [home, *(path for path in (home / machine.name).rglob("*") if path.is_dir()), home / machine.name]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


def test_with_one_more_the_daemon_can_run_too(user: User, net: Network) -> None:
    """Packets go up to it and come down again, as nobody in particular."""
    chain = {
        "interfaces": {"p1": {"device": "p1"}, "p2": {"device": "p2"}},
        "services": {"probe": {"kind": "probe"}},
        "links": [["p1", "probe.outside"], ["probe.inside", "p2"]],
    }
    with probe.installed():
        directory = user.built("probe", chain)
    applied = user.run("apply", directory)
    assert (applied.returncode, applied.stderr) == (0, "")
    run = user.folder / "run"
    run.mkdir()
    os.chown(run, UID, UID)
    with user.daemon(run) as log:
        until(lambda: 'event="chain is served"' in log.read_text(), log.read_text)
        up = A + B + probe.UP + bytes([0, PASS]) + bytes(44)
        net.send("p1", up)
        assert net.arrivals(p2=1) == {"p2": [plain(up)]}
    assert user.run("detach", user.machine.name).returncode == 0


def test_costs_are_told_where_another_network_namespace_cannot_be_entered(user: User) -> None:
    chain = guarded_bridge()
    for interface in chain["interfaces"].values():
        interface["netns"] = user.machine.namespace.name
    found = user.run("cost", user.built("chain", chain))
    assert found.returncode == 0, found.stderr
    assert "bytes of stack" in found.stdout


def test_costs_are_told_without_privileges_as_far_as_they_can_be(user: User) -> None:
    directory = user.built("chain", guarded_bridge())
    enough, nothing = user.run("cost", directory), user.run("cost", directory, caps=())
    assert (enough.returncode, nothing.returncode) == (0, 0)
    assert "bytes of stack" in enough.stdout
    assert "left out" not in enough.stdout
    assert "bytes of stack" not in nothing.stdout
    assert "longest path, 1 tail call" in nothing.stdout
    assert nothing.stdout.endswith(
        "left out (stack, machine code, memory, what the verifier does): "
        "loading programs needs the privilege CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON\n"
    )
