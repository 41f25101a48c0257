import CShims
import Foundation

/// The BPF programs that are loaded on this machine.
public enum BPFPrograms {
  /// Ids of all of them.
  public static func ids() -> Set<UInt32> {
    var ids: Set<UInt32> = []
    var id: UInt32 = 0
    while bpf_prog_get_next_id(id, &id) == 0 { ids.insert(id) }
    return ids
  }

  /// How often each has run and for how long, by name, while
  /// `kernel.bpf_stats_enabled` is set.
  public static func runTime(
    of ids: Set<UInt32>
  ) -> [String: (calls: UInt64, nanoseconds: UInt64)] {
    var found: [String: (calls: UInt64, nanoseconds: UInt64)] = [:]
    for id in ids {
      let fd = bpf_prog_get_fd_by_id(id)
      guard fd >= 0 else { continue }
      defer { close(fd) }
      var info = bpf_prog_info()
      var size = UInt32(MemoryLayout<bpf_prog_info>.size)
      guard bpf_obj_get_info_by_fd(fd, &info, &size) == 0 else { continue }
      let name = withUnsafeBytes(of: info.name) {
        String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
      }
      // Names are cut at 15 characters; two that look alike count together.
      let other = found[name] ?? (0, 0)
      found[name] = (other.calls + info.run_cnt, other.nanoseconds + info.run_time_ns)
    }
    return found
  }

  /// Ids of all BPF links.
  public static func links() -> Set<UInt32> {
    var ids: Set<UInt32> = []
    var id: UInt32 = 0
    while bpf_link_get_next_id(id, &id) == 0 { ids.insert(id) }
    return ids
  }
}
