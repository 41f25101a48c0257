public import Logging
public import State

extension Record {
  /// The fields of its entry in the journal, see bpftune-events(5). What is
  /// empty is left out.
  public var fields: Logger.Metadata {
    let all = [
      ("MESSAGE_ID", messageID), ("BPFTUNE_EVENT", kind.rawValue), ("BPFTUNE_TUNER", tuner),
      ("BPFTUNE_TUNABLE", tunable), ("BPFTUNE_NETNS", "\(namespace.inode)"),
      ("BPFTUNE_NETNS_COOKIE", namespace.cookie == 0 ? "" : "\(namespace.cookie)"),
      ("BPFTUNE_NETNS_NAME", namespaceName), ("BPFTUNE_OLD", old), ("BPFTUNE_NEW", new),
      ("BPFTUNE_SCENARIO", scenario), ("BPFTUNE_REASON", reason), ("BPFTUNE_OUTCOME", outcome),
      ("BPFTUNE_VERDICT", verdict?.rawValue ?? ""), ("BPFTUNE_EFFECT", effect),
      ("BPFTUNE_RECORD", "\(id)"),
    ]
    var fields: Logger.Metadata = [:]
    for (name, value) in all where !value.isEmpty { fields[name] = .string(value) }
    return fields
  }

  /// What kind of entry it is, for good: 128 bits in hexadecimal, as
  /// systemd-id128(1) makes them.
  public var messageID: String {
    if verdict != nil { return Self.experimentEnded }
    return switch kind {
    case .change: "ee7978bef3eb4e5cafdb1c3307effa6f"
    case .advice: "f25acf40098b4f9f8fa8f5f7e268d496"
    case .refusal: "baf70c85d91b42eea5d2674d805935c0"
    case .administrator: "af9049fc720e407ab634ebeaa3d48843"
    case .rollback: "7a1cff77a2274fa595ea26cc3efdb494"
    case .withdrawal: "7ccd8a702bd041a3a52a2dc5459de4b4"
    case .holdOut: "4d0dd7aa1ea0469fbd8b4ff0a5fb3eb3"
    case .note: "98295da6cbc548fdae5ab33e0c5e6add"
    }
  }

  private static var experimentEnded: String { "007bfb5c429047fabcfddb2df8b40dc7" }
}
