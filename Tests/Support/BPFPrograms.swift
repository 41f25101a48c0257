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

  /// Ids of all BPF links.
  public static func links() -> Set<UInt32> {
    var ids: Set<UInt32> = []
    var id: UInt32 = 0
    while bpf_link_get_next_id(id, &id) == 0 { ids.insert(id) }
    return ids
  }
}
