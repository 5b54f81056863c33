# Makes the configuration that the Debian package installs from the repository's: the Redis of this
# machine instead of the embedded broker, and where editors find the schema.
BEGIN { print "#:schema file:///usr/share/handlerd/config.schema.json" }
/^url = "embedded"/ { embedded++; sub(/^/, "# ") ; sub(/  #/, "#") }
/^# url = "redis:/ { redis++; sub(/^# /, ""); sub(/   #/, "     #") }
{ print }
END {
    if (embedded != 1 || redis != 1) {
        print "config.toml has other lines for `url` than systemd/debian/config.awk knows" > "/dev/stderr"
        exit 1
    }
}
