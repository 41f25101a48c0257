/// How the kernel tells of network namespaces that come into being and end.
/// There is no event that all kernels have for their end; a sweep finds that out.
public enum NamespaceWatch {
  /// Sees every way in which a namespace is created.
  private static let created = [
    Hook(
      .section(.fentry), "fexit/copy_net_ns", object: "netns_watch_fentry",
      program: "netns_watch_created", since: Hook.trampolines),
    Hook(
      .section(.kprobe), "kretprobe/copy_net_ns", object: "netns_watch_kprobe",
      program: "netns_watch_created_kprobe"),
  ]

  public static let signals = [
    Signal(
      "namespace created by clone",
      created + [
        Hook(
          .section(.tracepoint), "tp_btf/task_newtask", object: "netns_watch",
          program: "netns_watch_clone"),
        Hook(.poll(every: .seconds(10)), "sweep of /proc"),
      ]),
    Signal(
      "namespace created by unshare",
      created + [
        Hook(
          .tracepoint(category: "syscalls", name: "sys_exit_unshare"),
          "tracepoint/syscalls/sys_exit_unshare", object: "netns_watch",
          program: "netns_watch_unshare"),
        Hook(.poll(every: .seconds(10)), "sweep of /proc"),
      ]),
    Signal(
      "namespace ended",
      [
        Hook(
          .section(.fentry), "fentry/__put_net", object: "netns_watch_fentry",
          program: "netns_watch_ended", since: Hook.trampolines),
        Hook(
          .section(.kprobe), "kprobe/__put_net", object: "netns_watch_kprobe",
          program: "netns_watch_ended_kprobe"),
        Hook(.poll(every: .seconds(60)), "sweep of /proc"),
      ]),
  ]

  /// `enum netns_watch_scenario` in bpf/netns_watch.h.
  public enum Scenario: UInt16, CaseIterable, Sendable {
    case created = 1
    case ended = 2
  }
}
