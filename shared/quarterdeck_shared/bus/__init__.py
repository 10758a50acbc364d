"""One MQTT session behind one port."""
