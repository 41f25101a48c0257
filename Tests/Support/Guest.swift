import CShims
import Foundation
import Kernel

/// What kind of machine the tests run on.
public enum Guest {
  /// A virtual machine of Tests/vm, with nothing in it but the tests.
  public static var isHere: Bool {
    ProcessInfo.processInfo.environment["BPFTUNE_TEST_GUEST"] != nil
  }

  /// Why this kernel takes no program of the family, whatever it does; nil
  /// when it does take them.
  public static func refuses(_ family: Hook.Family) -> String? {
    switch family {
    case .fentry: refusesFentry()
    case .kprobe:
      access("/sys/bus/event_source/devices/kprobe", F_OK) == 0
        ? nil : "built without CONFIG_KPROBES"
    default: nil
    }
  }

  /// Loads a program that does nothing, for a function that every kernel has.
  private static func refusesFentry() -> String? {
    let function = "tcp_v4_connect"
    let id = libbpf_find_vmlinux_btf_id(function, BPF_TRACE_FENTRY)
    guard id > 0 else { return "no type information about \(function)" }
    // r0 = 0; exit
    let code: [UInt64] = [0xb7, 0x95]
    var options = bpf_prog_load_opts()
    options.sz = MemoryLayout<bpf_prog_load_opts>.size
    options.expected_attach_type = BPF_TRACE_FENTRY
    options.attach_btf_id = UInt32(id)
    let fd = code.withUnsafeBytes {
      bpf_prog_load(
        BPF_PROG_TYPE_TRACING, "nothing", "GPL", $0.bindMemory(to: bpf_insn.self).baseAddress,
        code.count, &options)
    }
    guard fd < 0 else {
      close(fd)
      return nil
    }
    return fd == -EPERM ? "locked down: it permits no fentry program" : nil
  }
}
