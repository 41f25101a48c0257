import CShims
import SystemPackage

/// The one hook on packets that the kernel drops, whatever for. Programs of
/// tuners are reached from it, each for the reason that it is there for.
public enum DropWatch {
  public static let signal = Signal(
    "packet dropped",
    [
      Hook(
        .section(.tracepoint), "tp_btf/kfree_skb, by reason", object: "drop_watch",
        program: "drop_watch", since: KernelVersion(5, 17))
    ])

  /// It sends no events, so that any number serves.
  public static let source: UInt16 = 0

  /// The map of programs by the number of the reason.
  static let handlers = "drop_handlers"

  /// This kernel's number for an enumerator of `enum skb_drop_reason`
  /// (include/net/dropreason-core.h): they differ from kernel to kernel.
  static func number(of reason: String) throws(BPFObject.Failure) -> UInt32 {
    let value = bpftune_bpf_kernel_enumerator("skb_drop_reason", reason)
    guard value >= 0 else {
      throw BPFObject.Failure(
        "look for \(reason)", errno: Errno(rawValue: Int32(-value)),
        detail: "this kernel has no such reason for a drop")
    }
    return UInt32(clamping: value)
  }
}
