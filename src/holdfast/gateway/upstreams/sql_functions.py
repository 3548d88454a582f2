"""The functions that a statement may call: those that change nothing, by the name that they have in the database.

Rules
1. A function is here only if every function of this name in a fresh database leaves no trace, waits for nothing, reads
   no file, and runs no text that it is given.
2. What can make one value of a thousand megabytes out of nothing (`repeat`, `lpad`, `format`) is left out.
"""

from __future__ import annotations

from typing import Final

PURE: Final = frozenset(
    """
    count sum avg min max bool_and bool_or every array_agg string_agg json_agg jsonb_agg json_object_agg
    jsonb_object_agg stddev stddev_pop stddev_samp variance var_pop var_samp corr covar_pop covar_samp
    regr_count regr_slope regr_intercept regr_r2 bit_and bit_or bit_xor mode percentile_cont percentile_disc
    any_value row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value
    nth_value abs ceil ceiling floor round trunc sign sqrt cbrt exp ln log log10 power pow mod div gcd lcm
    factorial pi degrees radians sin cos tan cot asin acos atan atan2 sinh cosh tanh width_bucket random scale
    min_scale trim_scale numeric_inc lower upper initcap length char_length character_length octet_length
    bit_length substring substr left right position strpos overlay trim btrim ltrim rtrim replace translate
    reverse split_part concat concat_ws starts_with ascii chr md5 sha224 sha256 sha384 sha512 encode decode
    to_hex quote_ident quote_literal quote_nullable regexp_replace regexp_match regexp_matches
    regexp_split_to_array regexp_split_to_table regexp_count regexp_instr regexp_like regexp_substr normalize
    is_normalized unistr string_to_array string_to_table array_to_string like_escape similar_to_escape
    convert_from convert_to get_byte set_byte get_bit set_bit crc32 crc32c now current_date clock_timestamp
    statement_timestamp transaction_timestamp age date_part date_trunc date_bin extract make_date make_time
    make_timestamp make_timestamptz make_interval justify_days justify_hours justify_interval to_char to_date
    to_timestamp to_number timezone isfinite overlaps array_length array_ndims array_dims array_lower
    array_upper array_position array_positions array_append array_prepend array_cat array_remove array_replace
    cardinality unnest generate_subscripts generate_series trim_array to_json to_jsonb array_to_json
    row_to_json json_build_array jsonb_build_array json_build_object jsonb_build_object json_array_length
    jsonb_array_length json_each jsonb_each json_each_text jsonb_each_text json_extract_path
    jsonb_extract_path json_extract_path_text jsonb_extract_path_text json_object_keys jsonb_object_keys
    json_array_elements jsonb_array_elements json_array_elements_text jsonb_array_elements_text json_typeof
    jsonb_typeof json_strip_nulls jsonb_strip_nulls jsonb_set jsonb_set_lax jsonb_insert jsonb_pretty
    jsonb_path_exists jsonb_path_match jsonb_path_query jsonb_path_query_array jsonb_path_query_first
    json_to_record json_to_recordset jsonb_to_record jsonb_to_recordset jsonb_populate_record
    jsonb_populate_recordset lower_inf upper_inf isempty range_merge lower_inc upper_inc to_tsvector
    to_tsquery plainto_tsquery phraseto_tsquery websearch_to_tsquery ts_rank ts_rank_cd ts_headline setweight
    strip numnode querytree tsvector_to_array array_to_tsvector host hostmask masklen netmask network
    broadcast family abbrev set_masklen text inet_same_family inet_merge gen_random_uuid uuidv4 uuidv7
    num_nulls num_nonnulls pg_typeof current_database current_schema current_schemas current_user session_user
    version has_table_privilege has_column_privilege has_schema_privilege pg_table_is_visible format_type
    col_description obj_description pg_get_constraintdef pg_get_indexdef pg_get_viewdef pg_get_expr
    """.split()
)
"""Of PostgreSQL, in `pg_catalog`."""

COUNTING: Final = frozenset("nextval currval lastval".split())
"""What a write may call as well: a number that is drawn is gone, but nothing else changes."""

SQLITE: Final = frozenset(
    """
    count sum total avg min max group_concat string_agg row_number rank dense_rank percent_rank cume_dist
    ntile lag lead first_value last_value nth_value abs ceil ceiling floor round trunc sign sqrt exp ln log
    log10 log2 pow power mod pi degrees radians sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh
    atanh random lower upper length octet_length substr substring instr trim ltrim rtrim replace concat
    concat_ws hex unhex quote char unicode like glob coalesce ifnull nullif iif if typeof likely unlikely
    likelihood date time datetime julianday unixepoch strftime timediff current_date current_time
    current_timestamp json json_array json_array_length json_extract json_insert json_object json_patch
    json_remove json_replace json_set json_type json_valid json_quote json_group_array json_group_object
    json_pretty json_error_position jsonb jsonb_array jsonb_extract jsonb_insert jsonb_object jsonb_patch
    jsonb_remove jsonb_replace jsonb_set jsonb_group_array jsonb_group_object -> ->> changes last_insert_rowid
    total_changes median percentile percentile_cont percentile_disc match bm25 highlight snippet
    """.split()
)
"""Of SQLite. Not here, among others: `load_extension`, `readfile`, `writefile`, `edit`, `fts3_tokenizer`."""
