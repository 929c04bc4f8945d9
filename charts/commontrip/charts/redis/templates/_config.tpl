{{/* The server's files. */}}
{{- define "redis.config" -}}
redis.conf: |
  port {{ int64 .Values.port }}
  bind * -::*
  dir /data
  aclfile /run/redis/users.acl
  # A key that is evicted closes a circuit that nobody has closed: a full server shall refuse instead.
  maxmemory {{ int64 .Values.maxmemoryMegabytes }}mb
  maxmemory-policy noeviction
  save ""
  appendonly {{ ternary "yes" "no" .Values.persistence.enabled }}
users.acl: |
  {{- /* Off: nobody can be this user. It has rights because Redis 8 reads its append-only file as this user. */}}
  user default off sanitize-payload ~* &* +@all
  user {{ .Values.auth.username }} on #@PASSWORD@ sanitize-payload ~{{ .Values.prefix }}:* resetchannels &{{ .Values.prefix }}:* -@all {{ include "redis.commands" . | replace "\n" " " }}
start.sh: |
  # The password is written as its hash, so that no character of it can be taken for a rule.
  set -eu
  umask 077
  hash=$(printf %s "$REDISCLI_AUTH" | sha256sum | cut -d ' ' -f 1)
  sed "s/@PASSWORD@/$hash/" /etc/redis/users.acl >/run/redis/users.acl
  exec redis-server /etc/redis/redis.conf
alive.sh: |
  # What a restart would not mend is no reason for one: it loads its file, cannot write it, or runs a script.
  case "$(redis-cli -p {{ int64 .Values.port }} --user {{ .Values.auth.username }} ping 2>&1)" in PONG | LOADING* | MISCONF* | BUSY*) ;; *) exit 1 ;; esac
ready.sh: |
  [ "$(redis-cli -p {{ int64 .Values.port }} --user {{ .Values.auth.username }} ping 2>&1)" = PONG ]
{{- end }}
