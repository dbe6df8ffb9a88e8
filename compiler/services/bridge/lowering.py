"""A bridge's model → the program of one port: its constants, the filtering database, static entries as code."""

from __future__ import annotations

from importlib.resources import files

from schemas.manifest import Hook, HostFact, Role, Scope

from ...ir import Constant, GeneratedFunction, HostBound, Inlined, LoweredPort, MapDef
from ...lower import c_name, port_name
from ...model import Port, ServiceInstance
from ...templates import environment
from .model import BridgeModel, StaticEntry

WAYS = 8  # entries of a set: FDB_WAYS in bridge.bpf.h
ENTRY_SIZE = 16  # struct fdb_entry
BPF_F_MMAPABLE = 1 << 10
_HZ = HostBound("hz", HostFact.HZ, None)


def set_bits(size: int) -> int:
    """Logarithm of the number of sets for `size` stations.

    Room for twice as many, or more: then fewer than 1 in 100 stations meets a set that is full (Poisson, mean 4 of 8).
    """
    return max(1, (-(-2 * size // WAYS) - 1).bit_length())


def lower(instance: ServiceInstance, port: Port, hook: Hook) -> LoweredPort:
    """The same for every hook: 802.1D does not know where frames come from."""
    model = instance.config
    assert isinstance(model, BridgeModel)
    return LoweredPort(
        constants=(*_constants(instance, port, model), *(_static_constant(instance, entry) for entry in model.static)),
        maps=(_fdb(instance, model),),
        functions=tuple(_functions(instance, port, model)),
    )


def _constants(instance: ServiceInstance, port: Port, model: BridgeModel) -> tuple[Constant, ...]:
    seconds = int(model.aging.total_seconds())
    fdb = f"{instance.name}.fdb"
    return (
        Constant(str(port), port.name, "the port that frames come from", Inlined("port", str(port.index)), port.span),
        Constant(f"{fdb}.aging", f"{seconds}s", "forget after", Inlined("aging_s", str(seconds)), model.aging_span),
        Constant(
            f"{fdb}.size",
            str(model.size),
            "logarithm of the number of sets, for a size of",
            Inlined("set_bits", str(set_bits(model.size))),
            model.size_span,
        ),
        Constant(f"{instance.name}.hz", "the host's", "jiffies a second", _HZ, instance.span),
    )


def _static_constant(instance: ServiceInstance, entry: StaticEntry) -> Constant:
    path = f"{instance.name}.fdb.static {entry.text}"
    return Constant(path, entry.port.name, "static entry", Inlined("", entry.text), entry.span)


def _fdb(instance: ServiceInstance, model: BridgeModel) -> MapDef:
    return MapDef(
        name=f"{c_name(instance.name)}__fdb",
        type="BPF_MAP_TYPE_ARRAY",
        key_type="__u32",
        key_size=4,
        value_type="struct fdb_set",
        value_size=WAYS * ENTRY_SIZE,
        max_entries=1 << set_bits(model.size),
        scope=Scope.SERVICE,
        role=Role.STATE,
        layout=f"bridge fdb/1 {' '.join(port.name for port in instance.ports)}",  # entries hold ports by their index
        span=model.size_span,
        flags=BPF_F_MMAPABLE,
        field="fdb",
        service=instance.name,
    )


def _functions(instance: ServiceInstance, port: Port, model: BridgeModel) -> tuple[GeneratedFunction, ...]:
    if not model.static:
        return ()
    name = f"{port_name(port)}__static"
    jinja = environment(files("compiler") / "services" / "bridge" / "templates")
    text = jinja.get_template("static.c.j2").render(name=name, entries=model.static)
    return (GeneratedFunction("static_port", name, text, model.static[0].span),)
