"""The built-in filters, one file each, written against the public interface (`vidcloud.filter`) alone."""
