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

  /// What this kernel has in `enum skb_drop_reason` (include/net/dropreason-core.h):
  /// the numbers differ from kernel to kernel. Read once, which takes 10 ms.
  private static let reasons = BPFObject.kernelEnumerators(of: "skb_drop_reason")

  static func number(of reason: String) throws(BPFObject.Failure) -> UInt32 {
    guard let found = reasons.first(where: { $0.name == reason }) else {
      throw BPFObject.Failure(
        "look for \(reason)", errno: .noSuchFileOrDirectory,
        detail: "this kernel has no such reason for a drop")
    }
    return UInt32(clamping: found.value)
  }
}
