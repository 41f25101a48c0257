import Glibc
import SystemPackage

/// What a kernel can do and this one may not, or was not built for.
enum Lockdown {
  /// Why the kernel refused a hook, in words where the error alone misleads.
  static func reason(_ hook: Hook, _ failure: BPFObject.Failure) -> String {
    switch (hook.family, failure.errno) {
    case (.fentry, .notPermitted):
      "not permitted: the kernel is locked down"
    case (.kprobe, .noSuchFileOrDirectory) where !hasKprobes:
      "this kernel was built without kprobes"
    default:
      failure.description
    }
  }

  /// The kernel lists what perf_event_open() takes there (kernel/events/core.c).
  private static var hasKprobes: Bool {
    access("/sys/bus/event_source/devices/kprobe", F_OK) == 0
  }
}
